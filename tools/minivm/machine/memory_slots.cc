// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/memory_slots.h"

#include <linux/kvm.h>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

void MemorySlots::begin() {
  added_.clear();
  removed_.clear();
}

void MemorySlots::region_add(const MemorySection& section) {
  if (section.ram) added_.push_back(section);
}

void MemorySlots::region_del(const MemorySection& section) {
  if (section.ram) removed_.push_back(section.gpa);
}

// All of it is tried, and the first error told: each section that could be
// followed is.
absl::Status MemorySlots::commit() {
  absl::Status first;
  for (const uint64_t gpa : removed_) first.Update(remove(gpa));
  for (const MemorySection& section : added_) first.Update(add(section));
  begin();
  return first;
}

absl::Status MemorySlots::add(const MemorySection& section) {
  Slot slot;
  slot.section = section;
  if (!free_.empty()) {
    slot.number = free_.back();
  } else if (next_ < kvm_.slots()) {
    slot.number = next_;
  } else {
    return absl::ResourceExhaustedError(
        absl::StrCat("memory at 0x", absl::Hex(section.gpa), ": all ",
                     kvm_.slots(), " memory slots of KVM are used"));
  }
  VHOST_RETURN_IF_ERROR(set(slot, section.size));
  if (free_.empty()) {
    ++next_;
  } else {
    free_.pop_back();
  }
  slots_.emplace(section.gpa, std::move(slot));
  return absl::OkStatus();
}

absl::Status MemorySlots::remove(uint64_t gpa) {
  const auto found = slots_.find(gpa);
  // One whose addition failed.
  if (found == slots_.end()) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(set(found->second, 0));
  free_.push_back(found->second.number);
  slots_.erase(found);
  return absl::OkStatus();
}

absl::Status MemorySlots::set(const Slot& slot, uint64_t size) {
  const MemorySection& section = slot.section;
  kvm_userspace_memory_region region{};
  region.slot = slot.number;
  if (section.readonly && kvm_.readonly_memory()) {
    region.flags = KVM_MEM_READONLY;
  }
  region.guest_phys_addr = section.gpa;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uintptr_t>(section.host());
  return annotate(kvm_ioctl(kvm_.vm(), KVM_SET_USER_MEMORY_REGION,
                            "KVM_SET_USER_MEMORY_REGION", &region),
                  absl::StrCat("memory at 0x", absl::Hex(section.gpa)));
}

}  // namespace vhost::minivm
