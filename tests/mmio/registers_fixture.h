// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MMIO_REGISTERS_FIXTURE_H_
#define TESTS_MMIO_REGISTERS_FIXTURE_H_

#include <gtest/gtest.h>

#include <array>

#include "hw/mmio/mmio_registers.h"
#include "tests/mmio/mmio_guest.h"

namespace vhost {

using Kind = MmioAction::Kind;

inline constexpr uint8_t kNegotiating = kStatusAcknowledge | kStatusDriver;
inline constexpr uint8_t kNegotiated = kNegotiating | kStatusFeaturesOk;
inline constexpr uint8_t kAllOk = kNegotiated | kStatusDriverOk;
inline constexpr FeatureSet kOffered = {0, 5, kFeatureVersion1,
                                        kFeatureRingReset, 100};

class Registers : public ::testing::Test {
 protected:
  Registers() { registers.offer(kOffered); }

  static MmioRegisters::Setup setup() {
    MmioRegisters::Setup setup;
    setup.device_id = 2;
    setup.vendor_id = 0x1234;
    setup.queue_sizes = {256, 0, 64};
    setup.config_size = 12;
    setup.shared_memory = {
        {.id = 3, .gpa = 0x1'2000'0000, .size = 0x2'0000'1000}};
    return setup;
  }

  uint32_t read(uint64_t offset) const {
    std::array<std::byte, 4> bytes;
    registers.read(offset, bytes);
    return from_le32(bytes);
  }
  MmioAction write(uint64_t offset, uint32_t value) {
    return registers.write(offset, le32(value));
  }
  // A write that is against the rules: counted, and nothing comes of it.
  void expect_refused(uint64_t offset, uint32_t value) {
    const uint64_t before = registers.refused();
    EXPECT_EQ(write(offset, value).kind, Kind::kNone);
    EXPECT_EQ(registers.refused(), before + 1) << std::hex << offset;
  }

  void accept(FeatureSet features) {
    const std::array<uint64_t, 2> halves = {features.low(), features.high()};
    for (uint32_t i = 0; i < 4; ++i) {
      write(mmio::kDriverFeaturesSel, i);
      write(mmio::kDriverFeatures,
            static_cast<uint32_t>(halves[i / 2] >> (32 * (i % 2))));
    }
  }
  void negotiate(FeatureSet features = {kFeatureVersion1}) {
    write(mmio::kStatus, kStatusAcknowledge);
    write(mmio::kStatus, kNegotiating);
    accept(features);
    write(mmio::kStatus, kNegotiated);
    ASSERT_EQ(read(mmio::kStatus), kNegotiated);
  }
  void set_ring(uint32_t vq, uint64_t desc, uint64_t driver, uint64_t device) {
    write(mmio::kQueueSel, vq);
    write(mmio::kQueueNum, 16);
    const auto address = [this](uint64_t low, uint64_t value) {
      write(low, static_cast<uint32_t>(value));
      write(low + 4, static_cast<uint32_t>(value >> 32));
    };
    address(mmio::kQueueDescLow, desc);
    address(mmio::kQueueDriverLow, driver);
    address(mmio::kQueueDeviceLow, device);
  }
  MmioAction make_ready(uint32_t vq) {
    set_ring(vq, 0x1000, 0x2000, 0x3000);
    return write(mmio::kQueueReady, 1);
  }
  // DRIVER_OK, with queue 0 ready, and the start is over.
  MmioAction start(bool ok = true, FeatureSet features = {kFeatureVersion1}) {
    negotiate(features);
    make_ready(0);
    const MmioAction action = write(mmio::kStatus, kAllOk);
    EXPECT_EQ(action.kind, Kind::kStart);
    registers.begin(action);
    interrupted = registers.complete(action, ok);
    return action;
  }

  MmioRegisters registers{setup()};
  bool interrupted = false;
};

}  // namespace vhost

#endif  // TESTS_MMIO_REGISTERS_FIXTURE_H_
