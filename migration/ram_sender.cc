// SPDX-License-Identifier: Apache-2.0
#include "migration/ram_sender.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "vhostdev/status.h"
#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

// Pieces of a hash in one step.
constexpr int kHashPieces = 4;

std::span<const std::byte> pages_of(const MigrationRam& block, uint64_t first,
                                    uint64_t count) {
  return {block.host() + first * kLogPageSize, count * kLogPageSize};
}

}  // namespace

bool is_zero(std::span<const std::byte> bytes) {
  constexpr size_t kStride = 64;
  std::array<uint64_t, kStride / 8> words;
  for (size_t at = 0; at + kStride <= bytes.size(); at += kStride) {
    std::memcpy(words.data(), bytes.data() + at, kStride);
    uint64_t any = 0;
    for (const uint64_t word : words) any |= word;
    if (any != 0) return false;
  }
  const auto tail = bytes.last(bytes.size() % kStride);
  return std::all_of(tail.begin(), tail.end(),
                     [](std::byte b) { return b == std::byte{0}; });
}

absl::StatusOr<bool> RamSender::fill() {
  const uint64_t records = writer_.records();
  for (uint64_t looked = 0; looked < kTurnPages;) {
    const auto piece = tracker_.take(kRecordPages);
    if (!piece.has_value()) {
      VHOST_RETURN_IF_ERROR(flush_zeros());
      return false;
    }
    const absl::StatusOr<uint64_t> cost = append(*piece);
    VHOST_RETURN_IF_ERROR(cost.status());
    looked += *cost;
    if (writer_.records() != records) return true;
  }
  return true;
}

absl::StatusOr<uint64_t> RamSender::append(const DirtyTracker::Piece& piece) {
  const MigrationRam& block = *piece.block;
  const uint64_t end = piece.pages.first + piece.pages.count;
  uint64_t cost = 0;
  for (uint64_t first = piece.pages.first; first != end;) {
    const RamExtent here = extent(block, first, end - first);
    const uint64_t count = here.size / kLogPageSize;
    VHOST_RETURN_IF_ERROR(here.hole ? add_zeros(block.id, first, count)
                                    : append_data(block, first, count));
    cost += here.hole ? 1 : count;
    first += count;
  }
  moved_ += piece.pages.count * kLogPageSize;
  return cost;
}

absl::Status RamSender::append_data(const MigrationRam& block, uint64_t first,
                                    uint64_t count) {
  for (const uint64_t end = first + count; first != end;) {
    const bool zero = is_zero(pages_of(block, first, 1));
    uint64_t next = first + 1;
    while (next != end && is_zero(pages_of(block, next, 1)) == zero) ++next;
    VHOST_RETURN_IF_ERROR(zero ? add_zeros(block.id, first, next - first)
                               : append_pages(block, first, next - first));
    first = next;
  }
  return absl::OkStatus();
}

// ORDER: after these pages were taken from the bitmap, so that who fills the
// hole meanwhile makes them dirty again.
RamExtent RamSender::extent(const MigrationRam& block, uint64_t first,
                            uint64_t count) {
  uint64_t& known = known_[block.id];
  if (first >= known) {
    const RamExtent found = ram_extent(block, first * kLogPageSize,
                                       block.size - first * kLogPageSize);
    const uint64_t pages = found.size / kLogPageSize;
    known = first + (found.hole ? std::min(pages, count) : pages);
    if (found.hole) {
      return {.size = (known - first) * kLogPageSize, .hole = true};
    }
  }
  return {.size = std::min(count, known - first) * kLogPageSize, .hole = false};
}

absl::Status RamSender::append_pages(const MigrationRam& block, uint64_t first,
                                     uint64_t count) {
  VHOST_RETURN_IF_ERROR(flush_zeros());
  const auto head = encode_ram_pages_head(first, static_cast<uint32_t>(count));
  return writer_.record(RecordType::kRamPages, block.id, head,
                        pages_of(block, first, count));
}

absl::Status RamSender::add_zeros(uint32_t block, uint64_t first,
                                  uint64_t count) {
  zeros_ += count * kLogPageSize;
  const bool continues = zero_run_.count != 0 && zero_block_ == block &&
                         zero_run_.first_page + zero_run_.count == first;
  if (!continues) {
    VHOST_RETURN_IF_ERROR(flush_zeros());
    zero_block_ = block;
    zero_run_.first_page = first;
  }
  zero_run_.count += count;
  return absl::OkStatus();
}

absl::Status RamSender::flush_zeros() {
  if (zero_run_.count == 0) return absl::OkStatus();
  const RamZeroPages run = std::exchange(zero_run_, RamZeroPages());
  return writer_.record(RecordType::kRamZeroPages, zero_block_, encode(run));
}

// The piece at `at`; one with holes without reading these.
std::span<const std::byte> RamHasher::piece(const MigrationRam& block,
                                            uint64_t at, uint64_t size) {
  RamExtent here = ram_extent(block, at, size);
  if (!here.hole && here.size == size) return {block.host() + at, size};
  copy_.assign(size, std::byte{0});
  for (uint64_t done = 0; done != size; done += here.size) {
    here = ram_extent(block, at + done, size - done);
    if (here.hole) continue;
    std::memcpy(copy_.data() + done, block.host() + at + done, here.size);
  }
  return copy_;
}

std::optional<RamHasher::Hashed> RamHasher::step() {
  if (over()) return std::nullopt;
  const auto& [id, block] = *blocks_.begin();
  for (int i = 0; i < kHashPieces && at_ != block.size; ++i) {
    const uint64_t size = std::min<uint64_t>(kRamHashPiece, block.size - at_);
    hash_ = ram_hash(hash_, piece(block, at_, size));
    at_ += size;
  }
  if (at_ != block.size) return std::nullopt;
  Hashed out{id, {.size = block.size, .hash = hash_}};
  blocks_.erase(blocks_.begin());
  at_ = 0;
  hash_ = 0;
  return out;
}

}  // namespace vhost
