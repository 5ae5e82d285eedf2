// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_SESSION_H_
#define TOOLS_VHOSTCTL_SESSION_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/cli.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::ctl {

// What a VMM would be: an event loop, memory and a context, in which drivers
// are made, one after another.
class Session {
 public:
  static absl::StatusOr<std::unique_ptr<Session>> create();

  EpollEventLoop& loop() { return *loop_; }
  DmaMemory& memory() { return dma_; }
  VhostContext& context() { return context_; }

  // What a driver on this session is made with: --timeout bounds whatever it
  // waits for.
  VirtioDriver::Options driver_options(const Options& options);

 private:
  explicit Session(std::unique_ptr<EpollEventLoop> loop);

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  VhostContext context_;
  DmaMemory dma_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_SESSION_H_
