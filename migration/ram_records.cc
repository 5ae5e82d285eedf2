// SPDX-License-Identifier: Apache-2.0
//
// Payloads of the records about memory, and of kAbort.
//
//   ram_blocks     = count:be32 (size:be32 block)*     block: ram_block.h
//   ram_pages      = first_page:be64 count:be32 reserved:be32 page*
//   ram_zero_pages = first_page:be64 count:be64
//   round_end      = round:be32 sent:be64 dirty:be64
//   ram_hash       = size:be64 hash:be64
//   abort          = code:be32 reason
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/bytes.h"
#include "migration/fields.h"
#include "migration/ram_block.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Codes that have a meaning in absl::StatusCode, without OK.
constexpr uint32_t kMaxCode = 16;

absl::Status malformed(absl::string_view what, size_t size) {
  return absl::DataLossError(absl::StrCat(what, ": ", size, " bytes"));
}

// Whether the pages are in the block.  `count` is not 0.
absl::Status check_pages(absl::string_view what, uint64_t first, uint64_t count,
                         uint64_t page_size, uint64_t block_size) {
  const uint64_t pages = page_size == 0 ? 0 : block_size / page_size;
  if (count != 0 && first < pages && count <= pages - first) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(
      what, ": ", count, " pages from page ", first, " in a block of ", pages));
}

}  // namespace

// ---------------------------------------------------------------------------
// Blocks
// ---------------------------------------------------------------------------

std::string wrong_block(const RamBlock& block) {
  if (!is_name(block.name, kMaxManifestName)) return "its name";
  if (block.size == 0 ||
      block.size > std::numeric_limits<uint64_t>::max() - block.gpa) {
    return absl::StrCat(block.size, " bytes at 0x", absl::Hex(block.gpa));
  }
  return "";
}

std::vector<std::byte> encode_block(const RamBlock& block) {
  std::vector<std::byte> out;
  put(out, block.id);
  put(out, block.gpa);
  put(out, block.size);
  put(out, bytes_of(block.name));
  return out;
}

absl::StatusOr<RamBlock> decode_block(std::span<const std::byte> bytes) {
  Taker taker(bytes);
  RamBlock out;
  out.id = taker.take<uint32_t>();
  out.gpa = taker.take<uint64_t>();
  out.size = taker.take<uint64_t>();
  if (!taker.complete()) return malformed("block of RAM", bytes.size());
  out.name = text_of(taker.rest());
  return out;
}

absl::StatusOr<std::vector<std::byte>> encode(
    std::span<const RamBlock> blocks) {
  if (blocks.size() > kMaxRamBlocks) {
    return absl::InvalidArgumentError(
        absl::StrCat(blocks.size(), " blocks of RAM"));
  }
  std::vector<std::byte> out;
  put(out, static_cast<uint32_t>(blocks.size()));
  for (const RamBlock& block : blocks) {
    if (const std::string wrong = wrong_block(block); !wrong.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("block ", block.id, ": ", wrong));
    }
    const std::vector<std::byte> bytes = encode_block(block);
    put(out, static_cast<uint32_t>(bytes.size()));
    put(out, bytes);
  }
  return out;
}

absl::StatusOr<std::vector<RamBlock>> decode_ram_blocks(
    std::span<const std::byte> payload) {
  Taker taker(payload);
  const auto count = taker.take<uint32_t>();
  if (count > kMaxRamBlocks) {
    return absl::DataLossError(absl::StrCat("ram_blocks: ", count, " blocks"));
  }
  std::vector<RamBlock> out;
  for (uint32_t i = 0; i < count && taker.complete(); ++i) {
    const auto size = taker.take<uint32_t>();
    absl::StatusOr<RamBlock> block = decode_block(taker.take(size));
    if (!block.ok()) return annotate(block.status(), "ram_blocks");
    if (const std::string wrong = wrong_block(*block); !wrong.empty()) {
      return absl::DataLossError(
          absl::StrCat("ram_blocks: block ", block->id, ": ", wrong));
    }
    out.push_back(*std::move(block));
  }
  if (!taker.exact()) return malformed("ram_blocks", payload.size());
  return out;
}

// ---------------------------------------------------------------------------
// Pages
// ---------------------------------------------------------------------------

std::array<std::byte, kRamPagesHead> encode_ram_pages_head(uint64_t first_page,
                                                           uint32_t count) {
  std::array<std::byte, kRamPagesHead> out = {};
  store_be(std::span(out), first_page);
  store_be(std::span(out).subspan(8), count);
  return out;
}

absl::StatusOr<RamPages> decode_ram_pages(std::span<const std::byte> payload,
                                          uint64_t page_size,
                                          uint64_t block_size) {
  Taker taker(payload);
  RamPages out;
  out.first_page = taker.take<uint64_t>();
  const auto count = taker.take<uint32_t>();
  const auto reserved = taker.take<uint32_t>();
  if (!taker.complete() || reserved != 0) {
    return malformed("ram_pages", payload.size());
  }
  VHOST_RETURN_IF_ERROR(
      check_pages("ram_pages", out.first_page, count, page_size, block_size));
  // No overflow: so many bytes are in the block.
  if (taker.left() != count * page_size) {
    return absl::DataLossError(absl::StrCat("ram_pages: ", taker.left(),
                                            " bytes of ", count, " pages"));
  }
  out.bytes = taker.rest();
  return out;
}

std::vector<std::byte> encode(const RamZeroPages& pages) {
  std::vector<std::byte> out;
  put(out, pages.first_page);
  put(out, pages.count);
  return out;
}

absl::StatusOr<RamZeroPages> decode_ram_zero_pages(
    std::span<const std::byte> payload, uint64_t page_size,
    uint64_t block_size) {
  Taker taker(payload);
  RamZeroPages out;
  out.first_page = taker.take<uint64_t>();
  out.count = taker.take<uint64_t>();
  if (!taker.exact()) return malformed("ram_zero_pages", payload.size());
  VHOST_RETURN_IF_ERROR(check_pages("ram_zero_pages", out.first_page, out.count,
                                    page_size, block_size));
  return out;
}

std::vector<std::byte> encode(const RoundEnd& round) {
  std::vector<std::byte> out;
  put(out, round.round);
  put(out, round.sent_bytes);
  put(out, round.dirty_bytes);
  return out;
}

absl::StatusOr<RoundEnd> decode_round_end(std::span<const std::byte> payload) {
  Taker taker(payload);
  RoundEnd out;
  out.round = taker.take<uint32_t>();
  out.sent_bytes = taker.take<uint64_t>();
  out.dirty_bytes = taker.take<uint64_t>();
  if (!taker.exact()) return malformed("round_end", payload.size());
  return out;
}

std::vector<std::byte> encode(const RamHash& hash) {
  std::vector<std::byte> out;
  put(out, hash.size);
  put(out, hash.hash);
  return out;
}

absl::StatusOr<RamHash> decode_ram_hash(std::span<const std::byte> payload) {
  Taker taker(payload);
  RamHash out;
  out.size = taker.take<uint64_t>();
  out.hash = taker.take<uint64_t>();
  if (!taker.exact()) return malformed("ram_hash", payload.size());
  return out;
}

// ---------------------------------------------------------------------------
// Giving up
// ---------------------------------------------------------------------------

std::vector<std::byte> encode_abort(const absl::Status& why) {
  std::vector<std::byte> out;
  const uint32_t code = why.ok()
                            ? static_cast<uint32_t>(absl::StatusCode::kUnknown)
                            : static_cast<uint32_t>(why.raw_code());
  put(out, code);
  put(out, bytes_of(shown(why.message(), kMaxAbortReason)));
  return out;
}

absl::Status decode_abort(std::span<const std::byte> payload) {
  Taker taker(payload);
  const auto code = taker.take<uint32_t>();
  if (!taker.complete() || code == 0 || code > kMaxCode ||
      taker.left() > kMaxAbortReason) {
    return malformed("abort", payload.size());
  }
  return absl::Status(static_cast<absl::StatusCode>(code),
                      shown(text_of(taker.rest()), kMaxAbortReason));
}

}  // namespace vhost
