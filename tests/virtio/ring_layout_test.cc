// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/ring_layout.h"

#include <gtest/gtest.h>

#include <array>

namespace vhost {
namespace {

TEST(RingLayout, SplitRingsHaveTheirEventWords) {
  const RingSizes sizes = ring_sizes(RingFormat::kSplit, 256);

  EXPECT_EQ(sizes.desc, 4096u);
  EXPECT_EQ(sizes.avail, 518u);
  EXPECT_EQ(sizes.used, 2054u);
}

TEST(RingLayout, PackedRingsHaveTwoSmallAreas) {
  const RingSizes sizes = ring_sizes(RingFormat::kPacked, 100);

  EXPECT_EQ(sizes.desc, 1600u);
  EXPECT_EQ(sizes.avail, 4u);
  EXPECT_EQ(sizes.used, 4u);
}

TEST(RingLayout, ARingThatWrapsPastTheEndIsRefused) {
  const VirtqueueConfig config = {.num = 256,
                                  .desc_gpa = ~uint64_t{0} - 15,
                                  .avail_gpa = 0x1000,
                                  .used_gpa = 0x2000};

  EXPECT_EQ(place_ring(config, RingFormat::kSplit, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RingLayout, BehindAnIommuAddressesStayTheGuests) {
  const VirtqueueConfig config = {
      .num = 256, .desc_gpa = 0x1000, .avail_gpa = 0x2000, .used_gpa = 0x3000};

  const auto ring = place_ring(config, RingFormat::kSplit, nullptr);

  ASSERT_TRUE(ring.ok());
  EXPECT_EQ(ring->used.gpa, 0x3000u);
  EXPECT_EQ(ring->used.user, 0u);
}

TEST(RingLayout, AnIndexIsReadInTheGuestsByteOrder) {
  alignas(4) std::array<uint8_t, 4> ring = {0, 0, 0x34, 0x12};
  const auto address = reinterpret_cast<uint64_t>(ring.data());

  EXPECT_EQ(read_ring_index(address, false), 0x1234);
  EXPECT_EQ(read_ring_index(address, true), 0x3412);
}

}  // namespace
}  // namespace vhost
