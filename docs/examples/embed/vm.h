// SPDX-License-Identifier: Apache-2.0
#ifndef DOCS_EXAMPLES_EMBED_VM_H_
#define DOCS_EXAMPLES_EMBED_VM_H_

#include <absl/status/status.h>
#include <vhostdev/event_loop.h>
#include <vhostdev/memory.h>
#include <vhostdev/status.h>
#include <vhostdev/vhost_context.h>

#include <cstdint>
#include <memory>
#include <utility>

// [vm]
// What one virtual machine has: a loop, its memory, its vhost devices' context.
struct Vm {
  std::unique_ptr<vhost::EpollEventLoop> loop =
      *vhost::EpollEventLoop::create();
  vhost::AddressSpace memory;
  vhost::VhostContext context{*loop, memory};

  absl::Status plug_ram(uint64_t gpa, uint64_t size) {
    auto region = vhost::MemoryRegion::create_memfd("ram", size);
    if (!region.ok()) return region.status();
    vhost::MemorySection section;
    section.gpa = gpa;
    section.size = (*region)->size();
    section.region = *std::move(region);
    // Every device could take it?  Ask before the guest sees it.
    VHOST_RETURN_IF_ERROR(context.can_add(section));
    return memory.add(std::move(section));
  }
};
// [end]

#endif  // DOCS_EXAMPLES_EMBED_VM_H_
