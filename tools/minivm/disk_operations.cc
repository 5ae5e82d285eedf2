// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/disk_operations.h"

#include <endian.h>

#include <cstring>
#include <utility>

namespace vhost::minivm {
namespace {

constexpr size_t kNumQueuesOffset = 34;

class DiskOperations final : public TransportOperations {
 public:
  DiskOperations(std::unique_ptr<TransportOperations> inner, uint16_t queues)
      : inner_(std::move(inner)), queues_(queues) {}

  void start(FeatureSet features, Completion done) override {
    inner_->start(features, std::move(done));
  }
  void reset(Completion done) override { inner_->reset(std::move(done)); }
  void start_queue(QueueIndex queue, Completion done) override {
    inner_->start_queue(queue, std::move(done));
  }
  void stop_queue(QueueIndex queue, Completion done) override {
    inner_->stop_queue(queue, std::move(done));
  }
  void write_config(uint32_t offset, std::span<const std::byte> bytes,
                    Completion done) override {
    inner_->write_config(offset, bytes, std::move(done));
  }
  void read_config(std::span<std::byte> out, Completion done) override {
    inner_->read_config(out, [out, queues = queues_, done = std::move(done)](
                                 absl::Status status) mutable {
      if (status.ok()) show_queues(out, queues);
      done(std::move(status));
    });
  }
  void pause(Completion done) override { inner_->pause(std::move(done)); }
  void resume(Completion done) override { inner_->resume(std::move(done)); }
  void notify(QueueIndex queue) override { inner_->notify(queue); }

 private:
  const std::unique_ptr<TransportOperations> inner_;
  const uint16_t queues_;
};

}  // namespace

void show_queues(std::span<std::byte> config, uint16_t queues) {
  const uint16_t value = htole16(queues);
  if (config.size() < kNumQueuesOffset + sizeof(value)) return;
  std::memcpy(config.data() + kNumQueuesOffset, &value, sizeof(value));
}

std::unique_ptr<TransportOperations> with_queues(
    std::unique_ptr<TransportOperations> inner, uint16_t queues) {
  return std::make_unique<DiskOperations>(std::move(inner), queues);
}

}  // namespace vhost::minivm
