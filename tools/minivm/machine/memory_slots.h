// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_
#define TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/machine/kvm.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/memory.h"

namespace vhost::minivm {

// KVM's memory slots, which follow an AddressSpace: one for each section of
// RAM.  KVM reads and writes a section's memory until it is removed, so its
// region stays referenced as long.  It also knows what the vCPUs write, by
// KVM's dirty log.  Loop thread.
class MemorySlots final : public MemoryListener, public DirtyProvider {
 public:
  // `kvm` outlives it.
  explicit MemorySlots(const Kvm& kvm) : kvm_(kvm) {}

  void begin() override;
  void region_add(const MemorySection& section) override;
  void region_del(const MemorySection& section) override;
  // Errors: kResourceExhausted  more sections than KVM has slots.
  //         as KVM_SET_USER_MEMORY_REGION's; the section's address is named.
  absl::Status commit() override;

  // Errors: as KVM_SET_USER_MEMORY_REGION's and KVM_GET_DIRTY_LOG's.
  absl::string_view name() const override { return "kvm"; }
  absl::Status enable() override;
  absl::Status sync(DirtySink& sink) override;
  void disable() override;

  size_t used() const { return slots_.size(); }

 private:
  struct Slot {
    uint32_t number = 0;
    MemorySection section;
  };
  absl::Status set(const Slot& slot, uint64_t size);
  absl::Status remove(uint64_t gpa);
  absl::Status add(const MemorySection& section);
  absl::Status set_logging(bool logging);

  const Kvm& kvm_;
  bool logging_ = false;
  std::map<uint64_t, Slot> slots_;  // By address.
  std::vector<uint32_t> free_;      // Numbers that were used.
  uint32_t next_ = 0;               // The first that was not.
  std::vector<MemorySection> added_;
  std::vector<uint64_t> removed_;
};

// Tells `sink` the pages of `bitmap`, whose first bit stands for the page at
// `gpa`, a multiple of the page size.
void tell_bitmap(std::span<const uint64_t> bitmap, uint64_t gpa,
                 DirtySink& sink);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_
