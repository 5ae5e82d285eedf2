// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_EXECUTOR_H_
#define VHOSTDEV_EXECUTOR_H_

#include "absl/functional/any_invocable.h"
#include "vhostdev/cxx20.h"

namespace vhost {

// Where verbs of a back-end whose traits say `may_block` run, if the embedder
// gives one: a worker thread, a pool.  Without it they run inline, on the
// loop's thread.  A vDPA map of 100 GiB pins memory for seconds; vhost-user
// never blocks and never uses it.
class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `work` once, soon, on a thread that may block.  Work handed in for
  // one device runs in the order given.  The library posts the outcome back to
  // the EventLoop itself.  An Executor outlives the devices that use it and
  // runs or destroys all it was given before its destructor returns.
  virtual void run(absl::AnyInvocable<void()> work) = 0;
};

}  // namespace vhost

#endif  // VHOSTDEV_EXECUTOR_H_
