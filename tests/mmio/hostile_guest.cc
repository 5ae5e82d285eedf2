// SPDX-License-Identifier: Apache-2.0
#include "tests/mmio/hostile_guest.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace vhost {
namespace {

constexpr std::array<uint64_t, 30> kRegisters = {
    mmio::kMagicValue,     mmio::kDeviceFeatures,  mmio::kDeviceFeaturesSel,
    mmio::kDriverFeatures, mmio::kDriverFeatures,  mmio::kDriverFeaturesSel,
    mmio::kQueueSel,       mmio::kQueueSel,        mmio::kQueueNumMax,
    mmio::kQueueNum,       mmio::kQueueReady,      mmio::kQueueReady,
    mmio::kQueueNotify,    mmio::kQueueNotify,     mmio::kInterruptStatus,
    mmio::kInterruptAck,   mmio::kStatus,          mmio::kQueueDescLow,
    mmio::kQueueDescHigh,  mmio::kQueueDriverLow,  mmio::kQueueDriverHigh,
    mmio::kQueueDeviceLow, mmio::kQueueDeviceHigh, mmio::kShmSel,
    mmio::kShmLenLow,      mmio::kQueueReset,      mmio::kConfigGeneration,
    mmio::kConfig,         mmio::kConfig + 16,     mmio::kConfig + 32};

}  // namespace

void HostileGuest::step() {
  const uint64_t what = below(1000);
  if (what < 4) {
    behave();
  } else if (what < 150) {
    load();
  } else if (what < 350) {
    scribble();
  } else {
    store();
  }
}

size_t HostileGuest::pending() {
  for (const Writes& write : writes_) over_twice_ |= *write > 1;
  std::erase_if(writes_, [](const Writes& write) { return *write > 0; });
  return writes_.size();
}

void HostileGuest::keep(Writes write) {
  if (write != nullptr) writes_.push_back(std::move(write));
}

uint32_t HostileGuest::value_for(uint64_t offset) {
  if (below(8) == 0) return static_cast<uint32_t>(random_());
  switch (offset) {
    case mmio::kStatus: {
      constexpr std::array<uint32_t, 10> kStatuses = {0,  1,  3,  11,   15,
                                                      79, 75, 15, 0x8f, 3};
      return kStatuses[below(kStatuses.size())];
    }
    case mmio::kDriverFeatures:
      return below(2) == 0 ? 1 : uint32_t{1} << below(32);
    case mmio::kQueueNum:
      return uint32_t{1} << below(10);
    case mmio::kQueueDescLow:
    case mmio::kQueueDriverLow:
    case mmio::kQueueDeviceLow:
      return static_cast<uint32_t>(below(memory_.size() + 65536) & ~15u);
    default:
      return static_cast<uint32_t>(below(4));
  }
}

void HostileGuest::store() {
  const bool known = below(16) != 0;
  const uint64_t offset =
      known ? kRegisters[below(kRegisters.size())]
            : (below(64) == 0 ? random_() : below(kMmioWindowSize + 64));
  std::array<std::byte, 16> bytes{};
  const std::array<std::byte, 4> value = le32(value_for(offset));
  std::copy(value.begin(), value.end(), bytes.begin());
  const size_t size = below(32) != 0 ? 4 : below(bytes.size() + 1);
  keep(guest_.store(offset, std::span(bytes).first(size)));
}

void HostileGuest::load() {
  std::array<std::byte, 16> bytes{};
  const size_t size = below(8) != 0 ? 4 : below(bytes.size() + 1);
  const uint64_t offset =
      below(64) == 0 ? random_() : below(kMmioWindowSize + 64);
  device_.read(offset, std::span(bytes).first(size));
}

// Half of it where rings are that behave() laid out.
void HostileGuest::scribble() {
  const uint64_t size = 1 + below(16);
  const uint64_t at = below(2) == 0
                          ? MmioGuest::ring(static_cast<uint32_t>(below(2))) +
                                0x4000 * below(3) + below(64)
                          : below(memory_.size() - size);
  for (uint64_t i = 0; i < size; ++i) {
    memory_[at + i] =
        static_cast<std::byte>(below(2) == 0 ? below(4) : random_());
  }
}

void HostileGuest::behave() {
  if (below(4) != 0) keep(guest_.write(mmio::kStatus, 0));
  FeatureSet features = {kFeatureVersion1};
  if (below(2) == 0) features.set(kFeatureEventIdx);
  if (below(2) == 0) features.set(kFeatureRingReset);
  guest_.negotiate(features);
  keep(guest_.set_up_queue(0, 16));
  keep(guest_.set_up_queue(1, 64));
  keep(guest_.add_status(kStatusDriverOk));
}

}  // namespace vhost
