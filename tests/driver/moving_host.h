// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_DRIVER_MOVING_HOST_H_
#define TESTS_DRIVER_MOVING_HOST_H_

#include <cstring>

#include "absl/status/status.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"

namespace vhost {

// Another host that a guest moves to: memory, and what it is told to.
class MovingHost {
 public:
  explicit MovingHost(EventLoop& loop) : context(loop, memory) {}

  // All of the guest's memory, at the same addresses.
  absl::Status take_memory(const DmaMemory& from) {
    for (const DmaMemory::Region& region : from.regions()) {
      VHOST_RETURN_IF_ERROR(dma.add_region(region));
      std::memcpy(memory.translate(region.gpa, region.size), region.host,
                  region.size);
    }
    return absl::OkStatus();
  }

  AddressSpace memory;
  VhostContext context;
  DmaMemory dma{context, memory};
};

}  // namespace vhost

#endif  // TESTS_DRIVER_MOVING_HOST_H_
