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

  // Runs `work` once, soon, on a thread that may block; a pool will do, because
  // a device hands in one piece at a time.  Outlives the devices that use it,
  // and runs or destroys all it was given before its destructor returns; the
  // EventLoop, to which outcomes are posted, outlives that.
  virtual void run(absl::AnyInvocable<void()> work) = 0;
};

}  // namespace vhost

#endif  // VHOSTDEV_EXECUTOR_H_
