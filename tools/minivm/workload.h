// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_WORKLOAD_H_
#define TOOLS_MINIVM_WORKLOAD_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "tools/vhostctl/journal.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_bytes.h"

namespace vhost::minivm {

// What the guest does to its disks: it writes blocks that say where and when
// they were written, reads them back, and keeps a journal of what was
// acknowledged (tools/vhostctl/pattern.h, journal.h).
struct Workload {
  std::optional<uint64_t> size;  // Bytes of each disk; empty: all of it.
  uint32_t depth = 32;           // Requests in flight per queue.
  // Empty: until it is told to finish (SIGTERM, `minivm ctl quit`).
  std::optional<Duration> seconds;
  uint64_t seed = 1;
  bool polled = false;  // Used rings are polled, without interrupts.
  // It reads blocks anywhere, whatever they hold, and does nothing else.  The
  // payload alone can.
  bool read_only = false;
};

// What it did.
struct WorkloadReport {
  std::string state;  // "running", "held", "ended", "failed", ...
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t verified = 0;  // Bytes read back and compared.
  uint64_t in_flight = 0;
  uint64_t interrupts = 0;
  uint64_t lost_interrupts = 0;
  uint64_t empty_interrupts = 0;
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  std::map<std::string, uint64_t> received_by;  // Of those, by net: "net0".
  uint64_t frame_faults = 0;
  uint64_t failed_requests = 0;
  uint64_t resets = 0;
  uint64_t in_doubt = 0;
  std::array<uint64_t, ctl::kBlockFaults> faults{};
  bool moved = false;       // It goes on at another host, or is in a file.
  std::string first_fault;  // Empty: none.
  std::string failure;      // Why it could not go on; empty: it could.

  // Everything that makes a run a failure: faults of blocks and frames, lost
  // interrupts, failed requests, and a failure counts as one.
  uint64_t total_faults() const;
};

// Parts of Guest::save().  What is wrong with what is loaded, the reader says.
// `seconds` is what is left of them.
void save_workload(const Workload& workload, StateWriter& out);
Workload load_workload(StateReader& in);
// Without the state.
void save_report(const WorkloadReport& report, StateWriter& out);
WorkloadReport load_report(StateReader& in);
// How long something goes on, if it has an end.
void save_time(const std::optional<Duration>& left, StateWriter& out);
std::optional<Duration> load_time(StateReader& in);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_WORKLOAD_H_
