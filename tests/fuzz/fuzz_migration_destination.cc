// SPDX-License-Identifier: Apache-2.0
//
// What a source, or whoever plays one, sends to a destination:
// { op:u8 ... }; op:
//   0xf0  the manifest that fits       0xf1  the core that fits
//   0xf2  its configuration            0xf3  the totals of all state
//   0xf4  the end                      0xf5  the channel ends
//   other a record: type op % 32, id:u8 size:u16le, bytes from the input
// Afterwards the migration is over, one way or the other, and the guest runs
// only if a commit was sent behind all that it needs.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <span>
#include <vector>

#include "migration/describe.h"
#include "tests/migration/engine/toy_vmm.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

class Scenario {
 public:
  explicit Scenario(std::span<const uint8_t> input) : input_(input) {
    vmm_.toys[0]->config_length = 8;
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                     fds) != 0) {
      std::abort();
    }
    ours_ = UniqueFd(fds[0]);
    destination_.start(UniqueFd(fds[1]),
                       [this](absl::Status s) { status_ = std::move(s); });
  }

  void run() {
    loop_.run_ready();
    while (!input_.empty()) {
      step(byte());
      exchange();
    }
    ours_.reset();
    loop_.run_ready();
    loop_.advance(std::chrono::hours(1));
    if (!status_.has_value()) std::abort();
    if (vmm_.running != status_->ok() || (vmm_.running && !committed_)) {
      std::abort();
    }
  }

 private:
  uint8_t byte() {
    if (input_.empty()) return 0;
    const uint8_t value = input_.front();
    input_ = input_.subspan(1);
    return value;
  }

  Manifest manifest() {
    Manifest out;
    out.blocks = {describe(vmm_.blocks[0])};
    out.devices = describe_destination(vmm_.devices(), out);
    return out;
  }

  DeviceCore core() {
    DeviceCore out;
    out.status = 15;
    out.features = vmm_.toys[0]->features;
    for (const VirtqueueConfig& queue : vmm_.toys[0]->guest.queues) {
      out.queues.push_back({.num = queue.num,
                            .desc = queue.desc_gpa,
                            .avail = queue.avail_gpa,
                            .used = queue.used_gpa,
                            .ready = true,
                            .enabled = true});
    }
    return out;
  }

  void step(uint8_t op) {
    const std::array<std::byte, 8> config = {};
    switch (op) {
      case 0xf0:
        if (const auto bytes = encode(manifest()); bytes.ok()) {
          writer_.record(RecordType::kManifest, 0, *bytes).IgnoreError();
        }
        return;
      case 0xf1:
        return writer_.record(RecordType::kDeviceCore, 0, encode(core()))
            .IgnoreError();
      case 0xf2:
        return writer_.record(RecordType::kDeviceConfig, 0, config)
            .IgnoreError();
      case 0xf3:
        return writer_.state_end().IgnoreError();
      case 0xf4:
        return writer_.end().IgnoreError();
      case 0xf5:
        return ours_.reset();
      default:
        return record(op % 32);
    }
  }

  void record(uint16_t type) {
    committed_ |= type == static_cast<uint16_t>(RecordType::kCommit);
    const uint8_t id = byte();
    size_t size = byte();
    size |= static_cast<size_t>(byte()) << 8;
    std::vector<std::byte> payload(std::min(size, input_.size()));
    for (std::byte& value : payload) value = std::byte{byte()};
    writer_.raw_record(type, id, kRecordCritical, payload).IgnoreError();
  }

  // What was written arrives, and the answers are read.
  void exchange() {
    // Where it takes nothing for long, the rest is never sent.
    for (int i = 0; i < 1000 && ours_.valid(); ++i) {
      if (writer_.pending_bytes() == 0) break;
      const auto bytes = writer_.pending();
      const ssize_t sent =
          ::send(ours_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) ours_.reset();
      if (sent > 0) writer_.consume(static_cast<size_t>(sent));
      loop_.run_ready();
    }
    loop_.run_ready();
    std::array<std::byte, 4096> nowhere;
    while (ours_.valid() &&
           ::recv(ours_.get(), nowhere.data(), nowhere.size(), 0) > 0) {
    }
  }

  std::span<const uint8_t> input_;
  testing::ManualEventLoop loop_;
  ToyVmm vmm_{loop_, 1};
  MigrationDestination destination_{loop_, vmm_.context, vmm_,
                                    MigrationDestination::Options{}};
  UniqueFd ours_;
  StreamWriter writer_{Integrity::kXxh3};
  std::optional<absl::Status> status_;
  bool committed_ = false;
};

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::Scenario({data, size}).run();
  return 0;
}
