// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_LOG_GUEST_H_
#define TESTS_PEERS_LOG_GUEST_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/test_disk.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_log.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {

// A guest in which it is known of every page who writes it: the parts of each
// ring have pages of their own, and requests are made by hand.  So it can be
// said which pages a back-end must have marked, and that it marked no other.
class LogGuest {
 public:
  using Pages = std::set<uint64_t>;

  // Guest addresses.  Requests use what lies from kData on; kFar is a piece of
  // memory for which the log has to be larger than for the rest.
  static constexpr uint64_t kRings = 0x10000;
  static constexpr uint64_t kData = 0x40000;
  static constexpr uint64_t kRam = uint64_t{1} << 20;
  static constexpr uint64_t kFar = uint64_t{1} << 30;
  static constexpr uint32_t kDepth = 64;

  LogGuest(uint32_t device_id, uint32_t queues, VhostUserAddress address);

  VhostContext& context() { return *context_; }
  VhostDev& dev() { return *dev_; }

  absl::Status init();
  absl::Status start();
  absl::Status stop();
  // Turns the log on and waits for the back-end.
  absl::Status log_on();
  // Adds 64 KiB at kFar and waits until the back-end has it.
  absl::Status plug_far();
  void log_off() { context_->listener().log_global_stop(); }

  struct Part {
    uint64_t gpa = 0;
    uint32_t size = 0;  // Bytes.
    bool writable = false;
  };
  // Offers one request and kicks.
  absl::Status offer(uint32_t queue, std::span<const Part> parts);
  // Waits for the completion of one; the bytes written.
  absl::StatusOr<uint32_t> complete(uint32_t queue);
  // Both.
  absl::StatusOr<uint32_t> request(uint32_t queue, std::span<const Part> parts);

  std::byte* at(uint64_t gpa) { return memory_.translate(gpa, 1); }
  // Writes a value as a driver does.
  template <typename T>
  void put(uint64_t gpa, const T& value) {
    std::memcpy(memory_.translate(gpa, sizeof(T)), &value, sizeof(T));
  }

  uint64_t used_page(uint32_t queue) const;
  // What the log has, of which nothing is left afterwards.
  Pages harvest();

 private:
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::unique_ptr<VhostContext> context_;
  FakeVirtioDevice device_;
  FakeNotifierBinding notifiers_;
  RecordingBackendEvents events_;
  std::vector<std::unique_ptr<SplitVirtqueue>> rings_;
  std::unique_ptr<VhostDev> dev_;
};

}  // namespace vhost::testing

#endif  // TESTS_PEERS_LOG_GUEST_H_
