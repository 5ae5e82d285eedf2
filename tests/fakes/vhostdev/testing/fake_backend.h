// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_FAKE_BACKEND_H_
#define VHOSTDEV_TESTING_FAKE_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vring.h"

namespace vhost::testing {

// A queue as the back-end has it.  Descriptors are its own duplicates, as if
// they had come through a socket.
struct FakeQueue {
  uint32_t num = 0;  // 0: never set.
  VringBase base{};
  std::optional<VringAddresses> addr;
  bool log_used = false;
  UniqueFd kick;
  UniqueFd call;
  UniqueFd err;
  NotifyMode kick_mode = NotifyMode::kPolling;
  NotifyMode call_mode = NotifyMode::kPolling;
  bool started = false;
  bool enabled = false;
  int in_band_kicks = 0;
};

// A piece of guest memory as the back-end was told of it.  It holds no
// reference: a test can see that removed memory is let go.
struct FakeMemory {
  uint64_t gpa = 0;
  uint64_t size = 0;
  uint64_t user = 0;

  friend bool operator==(const FakeMemory&, const FakeMemory&) = default;
};

// The far side of FakeVhostOps: what a back-end keeps, and what it refuses.
// No ring is served.  Refusals are kAborted.
class FakeBackend {
 public:
  // Asked before each step; a value means "do not do it, this is its fate".
  enum class Fate : uint8_t { kRefused, kUnknown };
  struct Planned {
    Fate fate = Fate::kRefused;
    absl::Status status;
  };
  using Plan = absl::FunctionRef<std::optional<Planned>(Step)>;

  // Does `verb` step by step, going on behind a refusal as a pipelined
  // connection does, and says what became of each step.
  BatchResult run(const Verb& verb, const BackendTraits& traits, Plan plan);

  // A new connection: nothing is set up.  What the device *is* stays.
  void forget_connection();

  // What the device is.
  std::vector<std::byte> config;
  bool config_read_only = false;           // For ConfigWriter::kDriver.
  std::map<uint32_t, VringBase> harvests;  // What Harvest answers, by queue; a
                                           // queue not here: its own base.

  bool wants_inflight = true;  // Answers GetInflight with an area.
  std::optional<uint64_t> inflight_file_bytes;  // Of its file; or as it says.
  bool can_reset_owner = false;
  bool is_vsock = false;
  // Its end of the channel that it gives instead of ours, at the next
  // SetDeviceStateFd.
  UniqueFd state_reply;
  std::set<uint64_t> cids_in_use;              // Of other guests.
  std::set<uint32_t> queues_without_doorbell;  // Among those that have them.

  // What it was told.
  std::optional<FeatureSet> features;
  std::map<uint64_t, FakeMemory> memory;  // By guest address.
  std::map<uint32_t, FakeQueue> queues;
  std::optional<InflightArea> inflight;
  uint64_t log_size = 0;          // Bytes; 0: none.
  std::byte* log_base = nullptr;  // The log, in this process.
  UniqueFd log_event;
  bool suspended = false;
  bool driver_ok = false;
  UniqueFd config_call;
  std::map<uint64_t, IotlbEntry> iotlb;  // By IOVA.
  uint16_t mtu = 0;
  std::optional<uint64_t> cid;
  // The end of a channel that SetDeviceStateFd gave; the test writes its state
  // there, or reads it.
  std::optional<StateDirection> state_direction;
  UniqueFd state;

 private:
  class Run;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_FAKE_BACKEND_H_
