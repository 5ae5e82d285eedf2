// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_BLOCK_RING_H_
#define TESTS_FAKES_BLOCK_RING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "vhostdev/split_virtqueue.h"

namespace vhost::testing {

// Block requests of one sector on a split ring, one at a time and by hand, for
// tests that have no driver.
class BlockRing {
 public:
  static constexpr uint32_t kSectorSize = 512;

  // Where a ring of `num` descriptors lies in this process, and 12 KiB for the
  // request, here and as the device sees it.
  struct Place {
    std::byte* desc = nullptr;
    std::byte* avail = nullptr;
    std::byte* used = nullptr;
    uint32_t num = 0;
    std::byte* data = nullptr;
    uint64_t data_gpa = 0;
  };
  explicit BlockRing(const Place& place) : at_(place) {}

  // Makes a request available.
  void read(uint64_t sector) {
    put(0, sector, kVringDescWrite, at_.data_gpa + kData);
  }
  void write(uint64_t sector) { put(1, sector, 0, at_.data_gpa + kData); }
  // One whose data lie where there is no memory.
  void read_into_nowhere() { put(0, 0, kVringDescWrite, ~uint64_t{0xfff}); }

  uint16_t used_index() {
    return std::atomic_ref(half(at_.used, 2)).load(std::memory_order_acquire);
  }
  // Of the last request; 0xff until it is complete.
  uint8_t status() const { return std::to_integer<uint8_t>(at_.data[kStatus]); }
  std::byte* data() { return at_.data + kData; }

 private:
  static constexpr uint64_t kData = 0x1000;
  static constexpr uint64_t kStatus = 0x2000;

  static uint16_t& half(std::byte* begin, size_t offset) {
    return *reinterpret_cast<uint16_t*>(begin + offset);
  }

  void put(uint32_t type, uint64_t sector, uint16_t direction, uint64_t to) {
    struct {
      uint32_t type;
      uint32_t reserved;
      uint64_t sector;
    } const header = {type, 0, sector};
    std::memcpy(at_.data, &header, sizeof(header));
    at_.data[kStatus] = std::byte{0xff};
    auto* const desc = reinterpret_cast<VringDesc*>(at_.desc);
    desc[0] = {at_.data_gpa, sizeof(header), kVringDescNext, 1};
    desc[1] = {to, kSectorSize,
               static_cast<uint16_t>(kVringDescNext | direction), 2};
    desc[2] = {at_.data_gpa + kStatus, 1, kVringDescWrite, 0};
    const uint16_t next = half(at_.avail, 2);
    half(at_.avail, 4 + 2 * size_t{next % at_.num}) = 0;
    std::atomic_ref(half(at_.avail, 2))
        .store(static_cast<uint16_t>(next + 1), std::memory_order_release);
  }

  Place at_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_BLOCK_RING_H_
