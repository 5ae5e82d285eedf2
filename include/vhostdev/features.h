// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_FEATURES_H_
#define VHOSTDEV_FEATURES_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "vhostdev/cxx20.h"

namespace vhost {

// Feature bit numbers that the front-end itself acts on.  Sources: VIRTIO 1.3,
// "Reserved Feature Bits"; linux/vhost.h; vhost-user.rst.
inline constexpr unsigned kFeatureNotifyOnEmpty = 24;
inline constexpr unsigned kFeatureLogAll = 26;  // VHOST_F_LOG_ALL
inline constexpr unsigned kFeatureAnyLayout = 27;
inline constexpr unsigned kFeatureIndirectDesc = 28;
inline constexpr unsigned kFeatureEventIdx = 29;
inline constexpr unsigned kFeatureProtocolFeatures = 30;  // vhost-user only
inline constexpr unsigned kFeatureVersion1 = 32;
inline constexpr unsigned kFeatureAccessPlatform = 33;  // was IOMMU_PLATFORM
inline constexpr unsigned kFeatureRingPacked = 34;
inline constexpr unsigned kFeatureInOrder = 35;
inline constexpr unsigned kFeatureOrderPlatform = 36;
inline constexpr unsigned kFeatureNotificationData = 38;
inline constexpr unsigned kFeatureRingReset = 40;

// A set of virtio feature bits 0 to 127: a value, cheap to copy.
class FeatureSet {
 public:
  static constexpr unsigned kBits = 128;

  constexpr FeatureSet() = default;
  constexpr FeatureSet(std::initializer_list<unsigned> bits) {
    for (const unsigned bit : bits) set(bit);
  }
  // Bits 0-63 and 64-127, as the wire and the kernel carry them.
  static constexpr FeatureSet from_words(uint64_t low, uint64_t high = 0) {
    FeatureSet out;
    out.low_ = low;
    out.high_ = high;
    return out;
  }

  constexpr uint64_t low() const { return low_; }
  constexpr uint64_t high() const { return high_; }
  constexpr bool empty() const { return low_ == 0 && high_ == 0; }

  // Bits outside 0-127 are never in a set; setting one does nothing.
  constexpr bool has(unsigned bit) const {
    if (bit < 64) return (low_ >> bit & 1) != 0;
    return bit < kBits && (high_ >> (bit - 64) & 1) != 0;
  }
  constexpr FeatureSet& set(unsigned bit, bool on = true) {
    if (bit >= kBits) return *this;
    uint64_t& word = bit < 64 ? low_ : high_;
    const uint64_t mask = uint64_t{1} << (bit % 64);
    word = on ? word | mask : word & ~mask;
    return *this;
  }
  constexpr FeatureSet& clear(unsigned bit) { return set(bit, false); }
  constexpr bool contains(FeatureSet other) const {
    return (other & *this) == other;
  }

  friend constexpr FeatureSet operator&(FeatureSet a, FeatureSet b) {
    return from_words(a.low_ & b.low_, a.high_ & b.high_);
  }
  friend constexpr FeatureSet operator|(FeatureSet a, FeatureSet b) {
    return from_words(a.low_ | b.low_, a.high_ | b.high_);
  }
  // The bits of `a` that are not in `b`.
  friend constexpr FeatureSet operator-(FeatureSet a, FeatureSet b) {
    return from_words(a.low_ & ~b.low_, a.high_ & ~b.high_);
  }
  friend constexpr bool operator==(FeatureSet, FeatureSet) = default;

 private:
  uint64_t low_ = 0;
  uint64_t high_ = 0;
};

// virtio device ids.  Source: VIRTIO 1.3, "Device Types".
inline constexpr uint32_t kDeviceIdNet = 1;
inline constexpr uint32_t kDeviceIdBlock = 2;
inline constexpr uint32_t kDeviceIdScsi = 8;
inline constexpr uint32_t kDeviceIdGpu = 16;
inline constexpr uint32_t kDeviceIdVsock = 19;
inline constexpr uint32_t kDeviceIdCrypto = 20;
inline constexpr uint32_t kDeviceIdFs = 26;

// The bit's name as the specifications spell it, without prefix ("EVENT_IDX",
// "LOG_ALL", and for a block device "FLUSH"); "bit 57" where there is none.
// `device_id` selects the names of bits 0-23 and 50-127; 0 leaves them unnamed.
std::string feature_name(uint32_t device_id, unsigned bit);

// The names of all bits of `features`, lowest bit first.
std::vector<std::string> feature_names(uint32_t device_id, FeatureSet features);

}  // namespace vhost

#endif  // VHOSTDEV_FEATURES_H_
