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
  if (logging_) region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
  region.guest_phys_addr = section.gpa;
  region.memory_size = size;
  region.userspace_addr = reinterpret_cast<uintptr_t>(section.host());
  return annotate(kvm_ioctl(kvm_.vm(), KVM_SET_USER_MEMORY_REGION,
                            "KVM_SET_USER_MEMORY_REGION", &region),
                  absl::StrCat("memory at 0x", absl::Hex(section.gpa)));
}

// ---------------------------------------------------------------------------
// What vCPUs write
// ---------------------------------------------------------------------------

absl::Status MemorySlots::enable() {
  const absl::Status enabled = set_logging(true);
  if (!enabled.ok()) disable();
  return enabled;
}

// What was logged and not asked for is forgotten; that it costs the guest
// something is all that can go wrong.
void MemorySlots::disable() { set_logging(false).IgnoreError(); }

absl::Status MemorySlots::set_logging(bool logging) {
  logging_ = logging;
  absl::Status first;
  for (const auto& [gpa, slot] : slots_) {
    first.Update(set(slot, slot.section.size));
  }
  return first;
}

absl::Status MemorySlots::sync(DirtySink& sink) {
  for (const auto& [gpa, slot] : slots_) {
    const uint64_t pages = slot.section.size / kLogPageSize;
    std::vector<uint64_t> bitmap((pages + kLogWordPages - 1) / kLogWordPages);
    kvm_dirty_log log{};
    log.slot = slot.number;
    log.dirty_bitmap = bitmap.data();
    VHOST_RETURN_IF_ERROR(annotate(
        kvm_ioctl(kvm_.vm(), KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", &log),
        absl::StrCat("memory at 0x", absl::Hex(gpa))));
    tell_bitmap(bitmap, gpa, sink);
  }
  return absl::OkStatus();
}

// A word of the bitmap is two of the sink's, where its first page is not the
// first of one.
void tell_bitmap(std::span<const uint64_t> bitmap, uint64_t gpa,
                 DirtySink& sink) {
  uint64_t page = gpa / kLogPageSize;
  const uint64_t shift = page % kLogWordPages;
  page -= shift;
  uint64_t carried = 0;
  for (const uint64_t word : bitmap) {
    const uint64_t bits = word << shift | carried;
    if (bits != 0) sink.dirty(page, bits);
    carried = shift == 0 ? 0 : word >> (kLogWordPages - shift);
    page += kLogWordPages;
  }
  if (carried != 0) sink.dirty(page, carried);
}

}  // namespace vhost::minivm
