// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_GUEST_H_
#define TOOLS_MINIVM_GUEST_H_

#include <cstdint>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
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

  virtual WorkloadReport report() const = 0;

  // Exits of all vCPUs to this process, since the start; 0 without vCPUs.
  virtual uint64_t exits() const { return 0; }
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_GUEST_H_
