// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_GUEST_H_
#define TOOLS_MINIVM_GUEST_H_

#include <cstdint>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/workload.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

// Who plays the guest: the payload on KVM, or the library's own driver on a
// thread.  All methods on the loop's thread.
class Guest {
 public:
  virtual ~Guest() = default;

  // Lets it run; its devices are there.  `ended` runs once, on the loop, when
  // its workload is over, however that came about.
  virtual absl::Status start(absl::AnyInvocable<void()> ended) = 0;

  // Halts it between two instructions (vCPUs out of the guest; threads at
  // their next request).  Requests in flight go on.  One at a time.
  virtual void pause(Completion done) = 0;
  virtual void resume() = 0;

  // Asks the workload to submit nothing more; `done` when nothing is in flight.
  // It must be running.  Errors: kDeadlineExceeded.
  virtual void hold(Completion done) = 0;
  virtual void release() = 0;

  // Asks it to finish: everything is read back once more, then it ends.
  virtual void finish() = 0;
  // Ends it now; nothing is checked any more.  It does not run afterwards.
  virtual void kill() = 0;

  // Everything another process needs to let this guest go on, besides the
  // guest's memory: bytes with a version in front, opaque to whoever carries
  // them.  It is paused, and its devices are stopped; nothing changes.  Of a
  // driver in this process some 10 bytes for each unit of 4 KiB that was
  // written: 16 MiB for a disk of 8 GiB.
  // Errors: kFailedPrecondition  not paused; a device is not stopped, or does
  //                              something that the guest asked for.
  //         of KVM.
  virtual absl::StatusOr<std::string> save() const = 0;

  // Becomes the guest that `state` is of, in place of one that never started:
  // paused, its devices stopped (VhostDev::start lets them go on), its memory
  // as it was.  start() lets it go on.  After an error it does not run, and is
  // good for nothing.  Blocks nobody.
  // Errors: kFailedPrecondition  it has a workload of its own; a device or the
  //                              processor lacks features.
  //         kDataLoss            the bytes make no sense.
  //         kInvalidArgument     of other devices, or the memory is not there.
  virtual absl::Status load(absl::string_view state) = 0;

  virtual WorkloadReport report() const = 0;

  // Exits of all vCPUs to this process, since the start; 0 without vCPUs.
  virtual uint64_t exits() const { return 0; }
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_GUEST_H_
