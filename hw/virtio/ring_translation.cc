// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/ring_translation.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// The smallest page that a back-end is told of.
constexpr uint64_t kPage = 4096;

constexpr bool allows(IotlbAccess given, IotlbAccess needed) {
  const auto g = static_cast<unsigned>(given);
  const auto n = static_cast<unsigned>(needed);
  return (g & n) == n;
}

constexpr bool holds(const IotlbEntry& entry, uint64_t iova, uint64_t size) {
  return iova >= entry.iova && iova - entry.iova < entry.size &&
         entry.size - (iova - entry.iova) >= size;
}

std::string at(uint64_t iova) {
  return absl::StrCat("iova 0x", absl::Hex(iova));
}

// What the VMM says of the page that `iova` is in.
absl::StatusOr<IotlbEntry> ask(BackendServices& services, uint64_t iova,
                               IotlbAccess needed) {
  const absl::StatusOr<IotlbEntry> entry = services.translate(iova, needed);
  if (!entry.ok()) return annotate(entry.status(), at(iova));
  const bool wraps = entry->iova + (entry->size - 1) < entry->iova ||
                     entry->gpa + (entry->size - 1) < entry->gpa;
  if (entry->size == 0 || wraps || !holds(*entry, iova, 1) ||
      !allows(entry->access, needed)) {
    return absl::InvalidArgumentError(
        absl::StrCat(at(iova), ": its translation does not hold it"));
  }
  if ((entry->iova | entry->gpa | entry->size) % kPage != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(at(iova), ": its translation is not of whole pages"));
  }
  return *entry;
}

// Of `entry`, what [iova, last] needs: whole pages and one piece of memory.
absl::StatusOr<UpdateIotlb> cut(const IotlbEntry& entry, uint64_t iova,
                                uint64_t last, const MemoryView& memory) {
  const uint64_t entry_last = entry.iova + (entry.size - 1);
  const uint64_t first = iova & ~(kPage - 1);
  // At once if memory allows it, else page by page.
  for (const uint64_t wanted : {last, iova}) {
    const uint64_t end = std::min(entry_last, wanted | (kPage - 1));
    UpdateIotlb piece;
    piece.entry = {.iova = first,
                   .size = end - first + 1,
                   .gpa = entry.gpa + (first - entry.iova),
                   .access = entry.access};
    const std::optional<uint64_t> user =
        memory.translate(piece.entry.gpa, piece.entry.size);
    if (!user.has_value()) continue;
    piece.user = *user;
    return piece;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(at(iova), ": not in guest memory"));
}

// Appends `piece`, to the last one if it continues that.
void append(std::vector<UpdateIotlb>& pieces, const UpdateIotlb& piece) {
  if (!pieces.empty()) {
    IotlbEntry& last = pieces.back().entry;
    const uint64_t size = last.size;
    if (last.iova + size == piece.entry.iova &&
        last.gpa + size == piece.entry.gpa &&
        pieces.back().user + size == piece.user &&
        last.access == piece.entry.access) {
      last.size += piece.entry.size;
      return;
    }
  }
  pieces.push_back(piece);
}

absl::Status translate_part(const RingPart& part, IotlbAccess needed,
                            BackendServices& services, const MemoryView& memory,
                            std::vector<UpdateIotlb>& pieces) {
  const uint64_t last = part.gpa + (part.size - 1);
  uint64_t iova = part.gpa;
  while (true) {
    uint64_t known_to = 0;  // The last byte of a piece that is there already.
    for (const UpdateIotlb& piece : pieces) {
      if (holds(piece.entry, iova, 1) && allows(piece.entry.access, needed)) {
        known_to = piece.entry.iova + (piece.entry.size - 1);
      }
    }
    if (known_to == 0) {
      const absl::StatusOr<IotlbEntry> entry = ask(services, iova, needed);
      if (!entry.ok()) return entry.status();
      const absl::StatusOr<UpdateIotlb> piece = cut(*entry, iova, last, memory);
      if (!piece.ok()) return piece.status();
      append(pieces, *piece);
      known_to = piece->entry.iova + (piece->entry.size - 1);
    }
    if (known_to >= last) return absl::OkStatus();
    iova = known_to + 1;
  }
}

}  // namespace

absl::StatusOr<std::vector<UpdateIotlb>> translate_ring(
    const VringAddresses& ring, RingFormat format, BackendServices& services,
    const MemoryView& memory) {
  // A device writes its descriptors' flags only in a packed ring.
  const IotlbAccess desc =
      format == RingFormat::kPacked ? IotlbAccess::kBoth : IotlbAccess::kRead;
  std::vector<UpdateIotlb> pieces;
  VHOST_RETURN_IF_ERROR(
      translate_part(ring.desc, desc, services, memory, pieces));
  VHOST_RETURN_IF_ERROR(
      translate_part(ring.avail, IotlbAccess::kRead, services, memory, pieces));
  VHOST_RETURN_IF_ERROR(
      translate_part(ring.used, IotlbAccess::kWrite, services, memory, pieces));
  return pieces;
}

std::optional<uint64_t> find_user(const std::vector<UpdateIotlb>& pieces,
                                  uint64_t iova, uint64_t size) {
  for (const UpdateIotlb& piece : pieces) {
    if (holds(piece.entry, iova, size)) {
      return piece.user + (iova - piece.entry.iova);
    }
  }
  return std::nullopt;
}

absl::Status check_pieces_in_place(const std::vector<UpdateIotlb>& pieces,
                                   const MemoryView& memory) {
  for (const UpdateIotlb& piece : pieces) {
    const IotlbEntry& entry = piece.entry;
    if (memory.translate(entry.gpa, entry.size) == piece.user) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("ring part at ", at(entry.iova),
                     " would move while the back-end uses it"));
  }
  return absl::OkStatus();
}

absl::Status check_pieces_in_table(const std::vector<UpdateIotlb>& pieces,
                                   const MemorySnapshot& table) {
  for (const UpdateIotlb& piece : pieces) {
    const IotlbEntry& wanted = piece.entry;
    const MemoryTableEntry* entry = table.find(wanted.gpa, wanted.size);
    if (entry != nullptr &&
        entry->user + (wanted.gpa - entry->gpa) == piece.user) {
      continue;
    }
    return absl::ResourceExhaustedError(absl::StrCat(
        "no memory slot is left for the ring part at ", at(wanted.iova)));
  }
  return absl::OkStatus();
}

}  // namespace vhost
