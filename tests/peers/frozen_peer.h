// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_FROZEN_PEER_H_
#define TESTS_PEERS_FROZEN_PEER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tests/peers/process.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {

// What a VMM does when a real back-end process is stopped (SIGSTOP): it is
// there, its sockets are open, and nothing comes.
enum class FrozenAt : uint8_t { kConnect, kStart, kStop, kMemoryChange };
inline constexpr FrozenAt kFrozenAt[] = {FrozenAt::kConnect, FrozenAt::kStart,
                                         FrozenAt::kStop,
                                         FrozenAt::kMemoryChange};
std::string name_of(FrozenAt at);
void PrintTo(FrozenAt at, std::ostream* out);

// A VMM with one device that gives up a silent peer after `reply_timeout`, on
// the clock of the wall.
class FrozenPeerVmm {
 public:
  // Short, but for a healthy peer on a busy machine.
  static constexpr Duration kImpatient = std::chrono::seconds(1);
  static constexpr Duration kPatient = std::chrono::seconds(20);

  FrozenPeerVmm(VhostUserAddress address, uint32_t device_id, uint32_t queues,
                Duration reply_timeout = kPatient);

  // All four wait.
  absl::Status init();
  absl::Status start();
  absl::Status stop();
  absl::Status plug_memory();
  absl::Status run(FrozenAt what);
  // Connects, starts and stops.
  absl::Status live();

  const VhostDev& dev() const { return *dev_; }
  const RecordingBackendEvents& events() const { return events_; }
  // Lets the loop do what is posted.
  void settle();

 private:
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  std::unique_ptr<VhostContext> context_;
  FakeVirtioDevice guest_;
  FakeNotifierBinding binding_;
  RecordingBackendEvents events_;
  std::unique_ptr<VhostDev> dev_;
};

// Freezes `peer` and does `at`: it must be given up in
// time, with the right words, and nothing may be left of it.  The process runs
// on afterwards.
void expect_frozen_peer_is_given_up(Process& peer,
                                    const VhostUserAddress& address,
                                    uint32_t device_id, uint32_t queues,
                                    FrozenAt at);

}  // namespace vhost::testing

#endif  // TESTS_PEERS_FROZEN_PEER_H_
