// SPDX-License-Identifier: Apache-2.0
//
// An inflight region of any content, as a back-end and a front-end read it:
// format:u8 size:u8 used:u16 avail:u16 flags:u8 ops:u8 op:u8... patches...
// format: bit 0 packed, bit 1 begin with a region in use.  op: bits 0-1 0 take,
// 1 put, 2 show; bits 2-3 descriptors.  Each patch: offset:u16 value:u8.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <span>
#include <vector>

#include "vhostdev/inflight.h"

namespace vhost {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

struct Input {
  bool packed;
  bool in_use;
  uint16_t num;
  uint16_t used_idx;
  uint16_t avail_idx;
  uint8_t flags;  // Of all descriptors: bit 0 AVAIL, bit 1 USED.
  std::span<const uint8_t> ops;
  std::span<const uint8_t> patches;
};

Input parse(std::span<const uint8_t> in) {
  Input out = {};
  out.packed = (in[0] & 1) != 0;
  out.in_use = (in[0] & 2) != 0;
  out.num = static_cast<uint16_t>(1 + in[1] % 16);
  std::memcpy(&out.used_idx, &in[2], 2);
  std::memcpy(&out.avail_idx, &in[4], 2);
  out.flags = in[6];
  const size_t ops = std::min<size_t>(in[7] % 32, in.size() - 8);
  out.ops = in.subspan(8, ops);
  out.patches = in.subspan(8 + ops);
  return out;
}

void patch(std::span<std::byte> region, std::span<const uint8_t> patches) {
  for (; patches.size() >= 3; patches = patches.subspan(3)) {
    uint16_t offset = 0;
    std::memcpy(&offset, patches.data(), sizeof(offset));
    region[offset % region.size()] = std::byte{patches[2]};
  }
}

void use_split(std::span<std::byte> region, const Input& input) {
  auto inflight = SplitInflight::open(region, input.num);
  uint16_t used = input.used_idx;
  check(inflight.ok() && inflight->recover(used).ok());
  std::deque<uint16_t> taken;
  uint16_t next = 0;
  uint16_t batch = 0;
  for (const uint8_t op : input.ops) {
    if (op % 4 == 0 && inflight->take(next % input.num).ok()) {
      taken.push_back(next++ % input.num);
    } else if (op % 4 == 1 && !taken.empty()) {
      check(inflight->put(taken.front()).ok());
      taken.pop_front();
      ++batch;
    } else if (op % 4 == 2) {
      used = static_cast<uint16_t>(used + batch);
      batch = 0;
      inflight->commit(used);
    }
  }
}

void read_split(std::span<std::byte> region, const Input& input) {
  const uint16_t num = input.num;
  const auto checked = check_inflight_region(region, RingFormat::kSplit, num);
  const auto lost = look_at_split(region, num, input.used_idx, input.avail_idx);
  auto inflight = SplitInflight::open(region, num);
  check(inflight.ok() == checked.ok());
  if (!checked.ok()) {
    check(lost.status() == checked.status());
    return;
  }
  const auto heads = inflight->recover(input.used_idx);
  if (lost.ok()) {
    check(heads.ok() && lost->in_flight == heads->size());
    check(lost->tracked == *checked);
    check(lost->base == VringBase{input.used_idx});
  }
  if (!heads.ok()) {
    check(heads.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  // It was settled: again, and by another.
  auto second = SplitInflight::open(region, num);
  check(second.ok());
  const auto again = second->recover(input.used_idx);
  check(again.ok() && *again == *heads);
  for (const uint16_t head : *heads) {
    check(head < num && second->put(head).ok());
  }
  const auto used = static_cast<uint16_t>(input.used_idx + heads->size());
  const auto shown = look_at_split(region, num, used, used);
  check(shown.ok() && shown->in_flight == 0);
  second->commit(used);
  check(second->recover(used)->empty());
}

uint16_t marks(unsigned both) {
  return static_cast<uint16_t>((both & 1) << 7 | (both & 2) << 14);
}

void use_packed(std::span<std::byte> region, const Input& input) {
  auto inflight = PackedInflight::open(region, input.num);
  const PackedPosition fresh = {
      static_cast<uint16_t>(input.used_idx % input.num),
      (input.avail_idx & 1) != 0};
  check(inflight.ok());
  check(inflight
            ->recover(
                fresh, [](uint16_t) { return uint16_t{0}; },
                [](uint16_t, uint16_t) {})
            .ok());
  std::deque<uint16_t> taken;
  for (const uint8_t op : input.ops) {
    if (op % 4 == 0) {
      const std::vector<PackedDescriptor> chain(1 + op / 4 % 4);
      const auto entry = inflight->take(chain);
      if (entry.ok()) taken.push_back(*entry);
    } else if (op % 4 == 1 && !taken.empty()) {
      check(inflight->put(taken.front()).ok());
      taken.pop_front();
    } else if (op % 4 == 2) {
      inflight->close_batch();
      inflight->commit();
    }
  }
}

void read_packed(std::span<std::byte> region, const Input& input) {
  const uint16_t num = input.num;
  const auto checked = check_inflight_region(region, RingFormat::kPacked, num);
  std::vector<uint16_t> flags(num, marks(input.flags));
  const auto load = [&flags](uint16_t i) { return flags.at(i); };
  const auto store = [&flags](uint16_t i, uint16_t value) {
    flags.at(i) = value;
  };
  const auto lost = look_at_packed(region, num, load);
  auto inflight = PackedInflight::open(region, num);
  check(inflight.ok() == checked.ok());
  if (!checked.ok()) {
    check(lost.status() == checked.status());
    return;
  }
  const auto out = inflight->recover({}, load, store);
  check(lost.ok() == out.ok());
  if (!out.ok()) {
    check(out.status().code() == absl::StatusCode::kDataLoss);
    return;
  }
  check(lost->in_flight == out->requests.size());
  auto second = PackedInflight::open(region, num);
  check(second.ok());
  const auto again = second->recover({}, load, store);
  check(again.ok() && again->used == out->used && again->avail == out->avail);
  check(again->requests.size() == out->requests.size());
  size_t descriptors = 0;
  for (const PackedInflight::Request& request : again->requests) {
    check(!request.descriptors.empty());
    descriptors += request.descriptors.size();
    check(second->put(request.entry).ok());
  }
  check(descriptors <= num);
  check(advance(out->used, static_cast<uint32_t>(descriptors), num) ==
        out->avail);
  second->close_batch();
  second->commit();
  check(look_at_packed(region, num, load)->in_flight == 0);
  check(second->take(std::vector<PackedDescriptor>(num)).ok());
}

void run(const Input& input) {
  const RingFormat format =
      input.packed ? RingFormat::kPacked : RingFormat::kSplit;
  std::vector<uint64_t> words(inflight_region_size(format, input.num) / 8);
  const auto region = std::as_writable_bytes(std::span(words));
  if (input.in_use && input.packed) use_packed(region, input);
  if (input.in_use && !input.packed) use_split(region, input);
  patch(region, input.patches);
  if (input.packed) {
    read_packed(region, input);
  } else {
    read_split(region, input);
  }
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 8) vhost::run(vhost::parse(std::span(data, size)));
  return 0;
}
