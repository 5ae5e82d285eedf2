// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MAIN_LOOP_H_
#define TOOLS_MINIVM_MAIN_LOOP_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"

namespace vhost::minivm {

// The loop of the program: GLib's, or where the library was built without it
// its own.  The thread that makes it is the loop's.
class MainLoop {
 public:
  static absl::StatusOr<std::unique_ptr<MainLoop>> create();
  virtual ~MainLoop() = default;

  virtual EventLoop& loop() = 0;
  // Waits for something to do and does it.
  virtual absl::Status turn() = 0;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MAIN_LOOP_H_
