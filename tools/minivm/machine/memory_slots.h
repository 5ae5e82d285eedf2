// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_
#define TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tools/minivm/machine/kvm.h"
#include "vhostdev/memory.h"

namespace vhost::minivm {

// KVM's memory slots, which follow an AddressSpace: one for each section of
// RAM.  KVM reads and writes a section's memory until it is removed, so its
// region stays referenced as long.  Loop thread.
class MemorySlots final : public MemoryListener {
 public:
  // `kvm` outlives it.
  explicit MemorySlots(const Kvm& kvm) : kvm_(kvm) {}

  void begin() override;
  void region_add(const MemorySection& section) override;
  void region_del(const MemorySection& section) override;
  // Errors: kResourceExhausted  more sections than KVM has slots.
  //         as KVM_SET_USER_MEMORY_REGION's; the section's address is named.
  absl::Status commit() override;

  size_t used() const { return slots_.size(); }

 private:
  struct Slot {
    uint32_t number = 0;
    MemorySection section;
  };
  absl::Status set(const Slot& slot, uint64_t size);
  absl::Status remove(uint64_t gpa);
  absl::Status add(const MemorySection& section);

  const Kvm& kvm_;
  std::map<uint64_t, Slot> slots_;  // By address.
  std::vector<uint32_t> free_;      // Numbers that were used.
  uint32_t next_ = 0;               // The first that was not.
  std::vector<MemorySection> added_;
  std::vector<uint64_t> removed_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_MEMORY_SLOTS_H_
