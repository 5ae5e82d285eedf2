// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/test_disk.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

uint64_t word_of(uint64_t number, uint64_t index) {
  uint64_t word = (number + 1) * 0x9e3779b97f4a7c15 + index;
  word = (word ^ word >> 29) * 0xbf58476d1ce4e5b9;
  return word ^ word >> 32;
}

}  // namespace

std::unique_ptr<VirtioDriver> make_driver(TestVm& vm, const std::string& socket,
                                          uint32_t queues,
                                          EpollEventLoop* own_loop,
                                          Duration stop_timeout) {
  VirtioDriver::Options options;
  options.device_id = kDeviceIdBlock;
  options.max_queues = queues;
  options.config_size = kBlkConfigSize;
  options.init_timeout = kPatience;
  options.stop_timeout = stop_timeout;
  options.own_loop = own_loop;
  return std::make_unique<VirtioDriver>(
      vm.context, vm.dma, make_vhost_user_ops(ConnectTo{socket}), options);
}

VirtioDriver::StartOptions start_options(uint32_t queues) {
  VirtioDriver::StartOptions out;
  out.queues = queues;
  out.depth = 64;
  out.indirect_entries = 4;
  return out;
}

BlkClient::Options client_options() {
  return {.wait_mode = BlkClient::WaitMode::kSleep,
          .depth = kTestDepth,
          .stall_timeout = kPatience};
}

absl::StatusOr<std::unique_ptr<TestDisk>> TestDisk::open(
    const std::string& socket, uint32_t queues, Duration stop_timeout) {
  absl::StatusOr<std::unique_ptr<EpollEventLoop>> loop =
      EpollEventLoop::create();
  if (!loop.ok()) return loop.status();
  std::unique_ptr<TestDisk> out(new TestDisk(*std::move(loop), stop_timeout));
  VHOST_RETURN_IF_ERROR(out->connect(socket, queues));
  return out;
}

absl::Status TestDisk::connect(const std::string& socket, uint32_t queues) {
  driver_ = make_driver(vm_, socket, queues, loop_.get(), stop_timeout_);
  return start(queues);
}

absl::Status TestDisk::start(uint32_t queues) {
  VHOST_RETURN_IF_ERROR(driver_->reset(kBlkWantedFeatures).status());
  VHOST_RETURN_IF_ERROR(driver_->start(start_options(queues)).status());
  absl::StatusOr<std::unique_ptr<BlkClient>> client =
      BlkClient::create(*driver_, client_options());
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status TestDisk::stop() {
  client_ = nullptr;
  const auto stopped = driver_->stop(VirtioDriver::StopMode::kDrain, kPatience);
  return stopped.ok() ? stopped->status : stopped.status();
}

absl::Status TestDisk::pretend(const BlkConfig& config) {
  const uint32_t queues = client_->queue_count();
  client_ = nullptr;
  std::vector<QueueHandle> handles;
  for (uint32_t i = 0; i < queues; ++i) {
    absl::StatusOr<QueueHandle> handle = driver_->acquire(QueueIndex{i});
    if (!handle.ok()) return handle.status();
    handles.push_back(*std::move(handle));
  }
  absl::StatusOr<std::unique_ptr<BlkClient>> client =
      BlkClient::create(*driver_, std::move(handles), config, client_options());
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

void TestDisk::disconnect() {
  client_ = nullptr;
  driver_ = nullptr;
}

absl::Status TestDisk::transfer(BlkOp op, uint64_t offset,
                                const DmaSpan& data) {
  BlkRequest request;
  request.op = op;
  request.offset = offset;
  request.buffers = std::span(&data, 1);
  return client_->run(request);
}

absl::Status TestDisk::run(BlkOp op, uint64_t offset, uint64_t length) {
  BlkRequest request;
  request.op = op;
  request.offset = offset;
  request.length = length;
  return client_->run(request);
}

void fill(const DmaSpan& out, uint64_t number) {
  for (uint64_t i = 0; i < out.size / 8; ++i) {
    const uint64_t word = word_of(number, i);
    std::memcpy(out.data + i * 8, &word, 8);
  }
}

bool is_filled(const DmaSpan& got, uint64_t number) {
  for (uint64_t i = 0; i < got.size / 8; ++i) {
    const uint64_t word = word_of(number, i);
    if (std::memcmp(got.data + i * 8, &word, 8) != 0) return false;
  }
  return true;
}

bool is_zero(const DmaSpan& got) {
  return std::all_of(got.data, got.data + got.size,
                     [](std::byte b) { return b == std::byte{}; });
}

}  // namespace vhost::testing
