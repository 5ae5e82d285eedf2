// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_PAUSER_H_
#define TOOLS_MINIVM_PAUSER_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/device.h"
#include "tools/minivm/guest.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

// Pauses a guest, and perhaps its devices, and lets them go on: the steps in
// their order.  One at a time.  Loop thread.
//
// A back-end that may stop with requests that it neither finished nor will
// finish (BaseAfterStop::kMayBeUndrained) must have none: the guest is asked
// first to submit nothing, until nothing is in flight.  Of one that is not
// asked the requests are waited for after it was halted.
class Pauser {
 public:
  enum class State : uint8_t { kRunning, kPausing, kPaused, kResuming };

  // All of them outlive this.
  Pauser(EventLoop& loop, Guest& guest, std::vector<Device*> devices);
  // Completions are destroyed uncalled.
  ~Pauser();

  // Whether some device's back-end is of that kind.
  bool must_hold() const;

  // `hold`: the guest is asked first to submit nothing; without it, if it must
  // be, for its devices.
  // Errors: kFailedPrecondition  not running.
  //         of the step that failed; what was done is undone.
  void pause(bool devices, bool hold, Completion done);
  void pause(bool devices, Completion done) {
    pause(devices, devices && must_hold(), std::move(done));
  }
  // Errors: kFailedPrecondition  not paused.
  //         of a device that does not start; it stays paused.
  void resume(Completion done);

  State state() const;
  absl::string_view state_name() const;  // "running"
  // Whether the devices are paused too.
  bool devices_paused() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_PAUSER_H_
