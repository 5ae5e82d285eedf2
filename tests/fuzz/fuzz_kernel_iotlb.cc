// SPDX-License-Identifier: Apache-2.0
//
// What a kernel's device sends, and what of the VMM's answer it can be told:
// choice:u8, then
//   bit 1 not set: message..., of version 1 or, with bit 0, 2;
//   bit 1 set: access:u8 { iova size gpa } of the answer, iova asked for,
//   { gpa size } of each entry of memory; access: bits 0-1 given, 2-3 needed.
// A number is base:u8 offset:u16, near one of the four bases.
#include <array>
#include <cstdlib>
#include <optional>
#include <span>
#include <vector>

#include "backends/kernel/iotlb_message.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void decode(std::span<const uint8_t> input) {
  const auto version =
      input[0] % 2 == 0 ? IotlbVersion::kOne : IotlbVersion::kTwo;
  const auto message = std::as_bytes(input.subspan(1));
  const auto request = decode_iotlb(message, version);
  check(request.ok() || request.status().code() == absl::StatusCode::kDataLoss);
  if (!request.ok()) return;
  check(message.size() == kIotlbMessageSize);
  check(request->access != IotlbAccess::kNone);
  check(static_cast<uint8_t>(request->access) <= 3);
  // The same bytes mean nothing in the other version, and an answer is never
  // taken for a question.
  const auto other =
      version == IotlbVersion::kOne ? IotlbVersion::kTwo : IotlbVersion::kOne;
  check(!decode_iotlb(message, other).ok());
  UpdateIotlb update;
  update.entry = {
      .iova = request->iova, .size = 4096, .gpa = 0, .access = request->access};
  check(!decode_iotlb(encode_iotlb(update, version), version).ok());
}

// The bytes of the input, as numbers; 0 where there are none left.
class Numbers {
 public:
  explicit Numbers(std::span<const uint8_t> input) : input_(input) {}

  bool empty() const { return input_.empty(); }
  uint8_t byte() {
    if (input_.empty()) return 0;
    const uint8_t out = input_.front();
    input_ = input_.subspan(1);
    return out;
  }
  uint64_t number() {
    constexpr std::array<uint64_t, 4> kBases = {
        0, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0} - 0xffff};
    const uint64_t base = kBases[byte() % kBases.size()];
    const uint64_t low = byte();
    return base + low + byte() * uint64_t{256};
  }

 private:
  std::span<const uint8_t> input_;
};

// Whether [first, first + size) is in [outer, outer + outer_size).
bool lies_in(uint64_t first, uint64_t size, uint64_t outer,
             uint64_t outer_size) {
  return first >= outer && first - outer < outer_size &&
         size <= outer_size - (first - outer);
}

// A table of the entries that continue it upwards.
class Table final : public MemorySnapshot {
 public:
  void add(uint64_t gpa, uint64_t size) {
    constexpr uint64_t kUser = 0x1234'5000;
    const bool above = entries_.empty() ||
                       gpa > entries_.back().gpa + (entries_.back().size - 1);
    if (size == 0 || gpa + (size - 1) < gpa || !above) return;
    MemoryTableEntry entry;
    entry.gpa = gpa;
    entry.size = size;
    entry.user = gpa * 3 + kUser;
    entries_.push_back(entry);
  }

  uint64_t generation() const override { return 0; }
  size_t size() const override { return entries_.size(); }
  std::span<const MemoryTableEntry> entries() const override {
    return entries_;
  }
  const MemoryTableEntry* find(uint64_t gpa, uint64_t size) const override {
    for (const MemoryTableEntry& entry : entries_) {
      if (lies_in(gpa, size, entry.gpa, entry.size)) return &entry;
    }
    return nullptr;
  }

 private:
  std::vector<MemoryTableEntry> entries_;
};

void check_placed(const UpdateIotlb& placed, const IotlbEntry& entry,
                  uint64_t iova, const Table& memory) {
  const IotlbEntry& part = placed.entry;
  check(part.access == entry.access);
  check(lies_in(iova, 1, part.iova, part.size));
  check(lies_in(part.iova, part.size, entry.iova, entry.size));
  check(part.gpa - entry.gpa == part.iova - entry.iova);
  check(part.iova + (part.size - 1) >= part.iova);
  const MemoryTableEntry* piece = memory.find(part.gpa, part.size);
  check(piece != nullptr);
  check(placed.user == piece->user + (part.gpa - piece->gpa));
  // Nothing that could have been told is left out.
  check(part.gpa == entry.gpa || part.gpa == piece->gpa);
  const uint64_t last = part.gpa + (part.size - 1);
  check(part.size - 1 + (part.iova - entry.iova) == entry.size - 1 ||
        last == piece->gpa + (piece->size - 1) || part.iova + part.size == 0);
}

void place(Numbers in) {
  const uint8_t access = in.byte();
  const IotlbAccess given{static_cast<uint8_t>(access & 3)};
  const IotlbAccess needed{static_cast<uint8_t>(access >> 2 & 3)};
  IotlbEntry entry;
  entry.iova = in.number();
  entry.size = in.number();
  entry.gpa = in.number();
  entry.access = given;
  const uint64_t iova = in.number();
  Table memory;
  while (!in.empty()) {
    const uint64_t gpa = in.number();
    memory.add(gpa, in.number());
  }
  const std::optional<UpdateIotlb> placed =
      place_translation(entry, iova, needed, memory);
  const uint64_t gpa = entry.gpa + (iova - entry.iova);
  const bool allowed =
      given != IotlbAccess::kNone && (~access & access >> 2 & 3) == 0;
  const bool can_be = allowed && lies_in(iova, 1, entry.iova, entry.size) &&
                      gpa >= entry.gpa && memory.find(gpa, 1) != nullptr;
  check(placed.has_value() == can_be);
  if (placed.has_value()) check_placed(*placed, entry, iova, memory);
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const std::span input(data, size);
  if ((input[0] & 2) != 0) {
    vhost::place(vhost::Numbers(input.subspan(1)));
  } else {
    vhost::decode(input);
  }
  return 0;
}
