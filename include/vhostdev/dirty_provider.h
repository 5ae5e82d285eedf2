// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_DIRTY_PROVIDER_H_
#define VHOSTDEV_DIRTY_PROVIDER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// Somebody who knows of writes to guest memory that the vhost log does not see:
// KVM's log of what vCPUs write, a driver in this process, a device that the
// VMM emulates.  Loop thread.
//
// QEMU: log_global_start, log_sync and log_global_stop of a MemoryListener.
class DirtyProvider {
 public:
  virtual ~DirtyProvider() = default;

  // Names its pages in MigrationProgress: "kvm".
  virtual absl::string_view name() const = 0;

  // From the return on every write is noticed.  What was written before is not
  // asked for: all of memory is read afterwards.
  virtual absl::Status enable() = 0;

  // Hands out the pages written since enable() or the last sync().  A page may
  // be told though it was not written, and more than once; it may not be left
  // out.  Bounded by the size of memory; it must not wait for anybody.
  virtual absl::Status sync(DirtySink& sink) = 0;

  // Nobody asks any more.  Called once for each enable() that succeeded.
  virtual void disable() = 0;
};

// Tells `sink` every page that [gpa, gpa + size) touches; nothing for an empty
// range or one that wraps.  For providers that know ranges.
void tell_dirty(uint64_t gpa, uint64_t size, DirtySink& sink);

}  // namespace vhost

#endif  // VHOSTDEV_DIRTY_PROVIDER_H_
