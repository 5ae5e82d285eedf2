// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/ring_layout.h"

#include <array>
#include <atomic>
#include <bit>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// One part of a ring and what the specification asks of it.
struct PartRule {
  const char* name;
  uint64_t alignment;  // Bytes.
};

constexpr std::array<PartRule, 3> kSplitRules = {{
    {"descriptor table", 16},
    {"available ring", 2},
    {"used ring", 4},
}};
constexpr std::array<PartRule, 3> kPackedRules = {{
    {"descriptor ring", 16},
    {"driver area", 4},
    {"device area", 4},
}};

absl::Status check_size(uint32_t num, RingFormat format) {
  const bool fits = num > 0 && num <= kMaxRingSize;
  if (fits && (format == RingFormat::kPacked || std::has_single_bit(num))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("ring of ", num, " descriptors"));
}

absl::Status place_part(RingPart& part, const PartRule& rule,
                        const MemoryView* memory) {
  if (part.gpa % rule.alignment != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(rule.name, " at 0x", absl::Hex(part.gpa),
                     " is not aligned to ", rule.alignment, " bytes"));
  }
  if (part.gpa + part.size < part.gpa) {
    return absl::InvalidArgumentError(absl::StrCat(
        rule.name, " at 0x", absl::Hex(part.gpa), " wraps past 2^64"));
  }
  if (memory == nullptr) return absl::OkStatus();
  part.user = memory->translate(part.gpa, part.size).value_or(0);
  if (part.user != 0 && part.user % rule.alignment == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(rule.name, " of ", part.size, " bytes at 0x",
                   absl::Hex(part.gpa), " is not in guest memory"));
}

}  // namespace

absl::StatusOr<VringAddresses> place_ring(const VirtqueueConfig& config,
                                          RingFormat format,
                                          const MemoryView* memory) {
  VHOST_RETURN_IF_ERROR(check_size(config.num, format));
  const RingSizes sizes = ring_sizes(format, config.num);
  VringAddresses ring = {
      .desc = {.gpa = config.desc_gpa, .size = sizes.desc},
      .avail = {.gpa = config.avail_gpa, .size = sizes.avail},
      .used = {.gpa = config.used_gpa, .size = sizes.used},
  };
  const auto& rules =
      format == RingFormat::kPacked ? kPackedRules : kSplitRules;
  VHOST_RETURN_IF_ERROR(place_part(ring.desc, rules[0], memory));
  VHOST_RETURN_IF_ERROR(place_part(ring.avail, rules[1], memory));
  VHOST_RETURN_IF_ERROR(place_part(ring.used, rules[2], memory));
  return ring;
}

absl::Status check_ring_in_place(const VringAddresses& ring,
                                 const MemoryView& memory) {
  const std::array<const RingPart*, 3> parts = {&ring.desc, &ring.avail,
                                                &ring.used};
  for (const RingPart* part : parts) {
    if (part->user == 0) continue;  // Behind an IOMMU.
    if (memory.translate(part->gpa, part->size) == part->user) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("ring part at 0x", absl::Hex(part->gpa),
                     " would move while the back-end uses it"));
  }
  return absl::OkStatus();
}

absl::Status check_ring_in_table(const VringAddresses& ring,
                                 const MemorySnapshot& table) {
  const std::array<const RingPart*, 3> parts = {&ring.desc, &ring.avail,
                                                &ring.used};
  for (const RingPart* part : parts) {
    if (part->user == 0) continue;  // Behind an IOMMU.
    const MemoryTableEntry* entry = table.find(part->gpa, part->size);
    if (entry != nullptr &&
        entry->user + (part->gpa - entry->gpa) == part->user) {
      continue;
    }
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory slot is left for the ring part at 0x",
                     absl::Hex(part->gpa)));
  }
  return absl::OkStatus();
}

uint16_t read_ring_index(uint64_t ring, bool big_endian) {
  // Aligned: place_ring() checked the part, and the word is at byte 2.
  auto* const word = reinterpret_cast<uint16_t*>(ring + 2);
  const uint16_t raw =
      std::atomic_ref<uint16_t>(*word).load(std::memory_order_acquire);
  const bool native = big_endian == (std::endian::native == std::endian::big);
  if (native) return raw;
  return static_cast<uint16_t>(raw >> 8 | raw << 8);
}

}  // namespace vhost
