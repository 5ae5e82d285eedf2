// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MMIO_MMIO_GUEST_H_
#define TESTS_MMIO_MMIO_GUEST_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include "hw/mmio/mmio_registers.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {

// `value` as a guest's store lays it down.
inline std::array<std::byte, 4> le32(uint32_t value) {
  std::array<std::byte, 4> bytes;
  for (size_t i = 0; i < 4; ++i) {
    bytes[i] = static_cast<std::byte>(value >> (8 * i));
  }
  return bytes;
}

inline uint32_t from_le32(std::span<const std::byte> bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value |= std::to_integer<uint32_t>(bytes[i]) << (8 * i);
  }
  return value;
}

// How often a write was over.
using Writes = std::shared_ptr<int>;

// A driver in the guest: what it stores and loads, and the order in which a
// driver sets a device up.
class MmioGuest {
 public:
  explicit MmioGuest(VirtioMmio& device) : device_(device) {}

  uint32_t read(uint64_t offset) {
    std::array<std::byte, 4> bytes;
    device_.read(offset, bytes);
    return from_le32(bytes);
  }

  // The pending write's count; null: it was over at once.
  Writes write(uint64_t offset, uint32_t value) {
    return store(offset, le32(value));
  }
  Writes store(uint64_t offset, std::span<const std::byte> bytes) {
    const auto over = std::make_shared<int>(0);
    const VirtioMmio::Access access =
        device_.write(offset, bytes, [over] { ++*over; });
    return access == VirtioMmio::Access::kPending ? over : nullptr;
  }

  uint32_t status() { return read(mmio::kStatus); }
  Writes add_status(uint32_t bits) {
    return write(mmio::kStatus, status() | bits);
  }

  FeatureSet offered() {
    std::array<uint32_t, 4> words;
    for (uint32_t i = 0; i < 4; ++i) {
      write(mmio::kDeviceFeaturesSel, i);
      words[i] = read(mmio::kDeviceFeatures);
    }
    return FeatureSet::from_words(words[0] | uint64_t{words[1]} << 32,
                                  words[2] | uint64_t{words[3]} << 32);
  }
  void accept(FeatureSet features) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint64_t half = i < 2 ? features.low() : features.high();
      write(mmio::kDriverFeaturesSel, i);
      write(mmio::kDriverFeatures,
            static_cast<uint32_t>(i % 2 == 0 ? half : half >> 32));
    }
  }

  // Resets the device and negotiates; true if FEATURES_OK stuck.
  bool negotiate(FeatureSet features) {
    add_status(kStatusAcknowledge);
    add_status(kStatusDriver);
    accept(features);
    add_status(kStatusFeaturesOk);
    return (status() & kStatusFeaturesOk) != 0;
  }

  void set_ring(uint32_t vq, uint32_t num, uint64_t desc, uint64_t driver,
                uint64_t device) {
    write(mmio::kQueueSel, vq);
    write(mmio::kQueueNum, num);
    write_address(mmio::kQueueDescLow, desc);
    write_address(mmio::kQueueDriverLow, driver);
    write_address(mmio::kQueueDeviceLow, device);
  }
  void write_address(uint64_t low, uint64_t value) {
    write(low, static_cast<uint32_t>(value));
    write(low + 4, static_cast<uint32_t>(value >> 32));
  }
  // A ring of its own 64 KiB, as a driver lays it out, and ready.
  Writes set_up_queue(uint32_t vq, uint32_t num = 64) {
    const uint64_t base = ring(vq);
    set_ring(vq, num, base, base + 0x4000, base + 0x8000);
    return write(mmio::kQueueReady, 1);
  }
  static uint64_t ring(uint32_t vq) { return 0x10000 + uint64_t{0x10000} * vq; }

  uint32_t ready(uint32_t vq) {
    write(mmio::kQueueSel, vq);
    return read(mmio::kQueueReady);
  }

 private:
  VirtioMmio& device_;
};

}  // namespace vhost

#endif  // TESTS_MMIO_MMIO_GUEST_H_
