// SPDX-License-Identifier: Apache-2.0
// How a region lies in memory, and what one says.
#ifndef HW_VIRTIO_INFLIGHT_LAYOUT_H_
#define HW_VIRTIO_INFLIGHT_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "vhostdev/inflight.h"

namespace vhost {

inline constexpr uint16_t kInflightVersion = 1;

// Flags of a packed descriptor.  Source: VIRTIO 1.3, "Packed Virtqueues".
inline constexpr uint16_t kPackedAvail = 1 << 7;
inline constexpr uint16_t kPackedUsed = 1 << 15;
inline constexpr uint16_t kPackedMarks = kPackedAvail | kPackedUsed;
// Of a descriptor in the lap of `wrap`.
constexpr uint16_t available_marks(bool wrap) {
  return wrap ? kPackedAvail : kPackedUsed;
}
constexpr uint16_t used_marks(bool wrap) { return wrap ? kPackedMarks : 0; }

// What both formats begin with.
struct InflightHead {
  uint64_t features;  // None is defined.
  uint16_t version;   // 0: nobody used the region yet.
  uint16_t desc_num;
};

struct SplitRegionHead {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t last_batch_head;
  uint16_t used_idx;
};
static_assert(sizeof(SplitRegionHead) == 16);
static_assert(offsetof(SplitRegionHead, last_batch_head) == 12);
static_assert(offsetof(SplitRegionHead, version) ==
              offsetof(InflightHead, version));
static_assert(offsetof(SplitRegionHead, desc_num) ==
              offsetof(InflightHead, desc_num));

struct SplitRegionEntry {
  uint8_t inflight;
  uint8_t padding[5];
  uint16_t next;  // In the last batch.
  uint64_t counter;
};
static_assert(sizeof(SplitRegionEntry) == 16);
static_assert(offsetof(SplitRegionEntry, next) == 6);

// The used positions of a packed region: one aligned word, so that an index and
// its wrap counter change at once.
struct PackedRegionUsed {
  uint16_t used_idx;
  uint16_t old_used_idx;
  uint8_t used_wrap_counter;
  uint8_t old_used_wrap_counter;
  uint8_t padding[2];
};
static_assert(sizeof(PackedRegionUsed) == 8);

struct PackedRegionHead {
  uint64_t features;
  uint16_t version;
  uint16_t desc_num;
  uint16_t free_head;
  uint16_t old_free_head;
  PackedRegionUsed used;
  uint8_t padding[8];
};
static_assert(sizeof(PackedRegionHead) == 32);
static_assert(offsetof(PackedRegionHead, version) ==
              offsetof(InflightHead, version));
static_assert(offsetof(PackedRegionHead, desc_num) ==
              offsetof(InflightHead, desc_num));
static_assert(offsetof(PackedRegionHead, old_free_head) == 14);
static_assert(offsetof(PackedRegionHead, used) == 16);

struct PackedRegionEntry {
  uint8_t inflight;
  uint8_t padding;
  uint16_t next;
  uint16_t last;
  uint16_t num;
  uint64_t counter;
  uint16_t id;
  uint16_t flags;
  uint32_t len;
  uint64_t addr;
};
static_assert(sizeof(PackedRegionEntry) == 32);
static_assert(offsetof(PackedRegionEntry, addr) == 24);

constexpr size_t split_entry(uint16_t index) {
  return sizeof(SplitRegionHead) + sizeof(SplitRegionEntry) * index;
}
constexpr size_t packed_entry(uint16_t index) {
  return sizeof(PackedRegionHead) + sizeof(PackedRegionEntry) * index;
}

// The T at `offset` of a region that is long enough.
template <typename T>
T read_region(std::span<const std::byte> region, size_t offset) {
  T value;
  std::memcpy(&value, region.data() + offset, sizeof(value));
  return value;
}

// What a region in use says.  Read from a copy: the other side may write.
struct SplitReading {
  std::vector<uint16_t> shown;      // In flight as noted; seen by the driver.
  std::vector<uint16_t> in_flight;  // Oldest first.
  uint16_t last_batch_head = 0;
  uint64_t next_counter = 0;
};
// Errors: kDataLoss  it contradicts itself or the ring.
absl::StatusOr<SplitReading> read_split(std::span<const std::byte> region,
                                        uint16_t queue_size, uint16_t used_idx);

struct PackedReading {
  bool commit = false;  // The last batch was shown, and not noted as such.
  PackedPosition used;
  uint16_t free_head = 0;
  size_t free = 0;                  // Entries of the free list.
  std::vector<uint16_t> next;       // By entry.
  std::vector<uint16_t> stale;      // Free, and marked as in flight.
  std::vector<uint16_t> in_flight;  // First entries, oldest first.
  uint64_t next_counter = 0;
};
absl::StatusOr<PackedReading> read_packed(
    std::span<const std::byte> region, uint16_t queue_size,
    absl::FunctionRef<uint16_t(uint16_t)> flags_of_descriptor);

}  // namespace vhost

#endif  // HW_VIRTIO_INFLIGHT_LAYOUT_H_
