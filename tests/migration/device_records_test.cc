// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

DeviceManifest disk() { return sample_manifest().devices[0]; }

// What is wrong with the sample after this change.
std::string wrong(const std::function<void(DeviceCore&)>& change) {
  DeviceCore core = sample_core();
  change(core);
  const absl::Status status = check_device_core(core, disk());
  EXPECT_EQ(decode_device_core(encode(core), disk()).status(), status);
  return message_of(status);
}

// The same of a queue of 5 descriptors of a packed ring.
std::string wrong_packed(
    const std::function<void(DeviceCore::Queue&)>& change) {
  DeviceManifest manifest = disk();
  manifest.offered.set(kFeatureRingPacked);
  DeviceCore core = sample_core();
  core.features.set(kFeatureRingPacked);
  core.format = RingFormat::kPacked;
  core.queues[0] = {.num = 5,
                    .desc = 0x1000,
                    .avail = 0x2000,
                    .used = 0x2004,
                    .base = initial_base(RingFormat::kPacked),
                    .ready = true};
  change(core.queues[0]);
  return message_of(check_device_core(core, manifest));
}

TEST(DeviceCore, IsReadBackAsWritten) {
  const DeviceCore core = sample_core();
  const auto again = decode_device_core(encode(core), disk());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, core);
}

TEST(DeviceCore, CutOffOrTooLongIsRefused) {
  Bytes bytes = encode(sample_core());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(decode_device_core(std::span(bytes).first(size), disk())
                  .status()
                  .code(),
              kDataLoss)
        << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_EQ(decode_device_core(bytes, disk()).status().code(), kDataLoss);
}

TEST(DeviceCore, ReservedBytesAndUnknownFlagsAreRefused) {
  const Bytes bytes = encode(sample_core());
  // format, reserved, queues (upper), reserved, queue flags, queue reserved.
  for (const size_t at : {2u, 3u, 24u, 28u, 36u, 68u}) {
    Bytes bad = bytes;
    bad[at] |= std::byte{0x80};
    EXPECT_EQ(decode_device_core(bad, disk()).status().code(), kDataLoss) << at;
  }
}

TEST(DeviceCore, OfNoSuchDeviceIsRefused) {
  EXPECT_EQ(wrong([](DeviceCore& c) { c.status |= 0x10; }),
            "device_core: status 0x1f");
  EXPECT_EQ(wrong([](DeviceCore& c) { c.isr = 4; }),
            "device_core: interrupt status 0x4");
  EXPECT_EQ(wrong([](DeviceCore& c) { c.features.set(kFeatureInOrder); }),
            "device_core: features that were never offered: IN_ORDER");
  EXPECT_EQ(wrong([](DeviceCore& c) { c.format = RingFormat::kPacked; }),
            "device_core: packed rings without RING_PACKED");
  EXPECT_EQ(wrong([](DeviceCore& c) { c.queues.pop_back(); }),
            "device_core: 1 queues, not 2");
}

TEST(DeviceCore, AFeatureOfTheBackEndAloneIsNoneOfTheGuest) {
  EXPECT_EQ(wrong([](DeviceCore& c) {
              c.features.set(kFeatureLogAll).set(kFeatureProtocolFeatures);
            }),
            "");
}

TEST(DeviceCore, AQueueHasASizeThatItMayHave) {
  using C = DeviceCore;
  EXPECT_THAT(wrong([](C& c) { c.queues[0].num = 512; }),
              HasSubstr("vq 0: 512 descriptors, at most 256"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].num = 96; }),
              HasSubstr("vq 0: 96 descriptors"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].num = 0; }),
              HasSubstr("vq 0: 0 descriptors"));
  EXPECT_THAT(wrong([](C& c) { c.queues[1].enabled = true; }),
              HasSubstr("vq 1: enabled but not ready"));
  // What a guest wrote before it made the queue ready.
  EXPECT_EQ(wrong([](C& c) {
              c.queues[1].num = 96;
              c.queues[1].desc = 3;
            }),
            "");
}

TEST(DeviceCore, ARingIsAlignedAndDoesNotWrapAround) {
  using C = DeviceCore;
  EXPECT_THAT(wrong([](C& c) { c.queues[0].desc += 8; }),
              HasSubstr("vq 0: its desc part at 0x10008"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].avail += 1; }),
              HasSubstr("vq 0: its avail part"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].used += 2; }),
              HasSubstr("vq 0: its used part"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].desc = UINT64_MAX - 15; }),
              HasSubstr("vq 0: its desc part"));
  EXPECT_THAT(wrong([](C& c) { c.queues[0].used = UINT64_MAX - 3; }),
              HasSubstr("vq 0: its used part"));
}

TEST(DeviceCore, ASplitRingStandsWithinItsSizeOfTheUsedIndex) {
  const auto at = [](uint32_t base, uint16_t used) {
    return wrong([base, used](DeviceCore& c) {
      c.queues[0].base = VringBase{base};
      c.queues[0].used_idx = used;
    });
  };
  EXPECT_EQ(at(0, 0), "");
  EXPECT_EQ(at(256, 0), "");        // All in flight.
  EXPECT_EQ(at(0x10, 0xff80), "");  // Across the wrap.
  EXPECT_THAT(at(257, 0), HasSubstr("vq 0: it stands at 257"));
  EXPECT_THAT(at(0, 1), HasSubstr("it stands at 0 with the used index at 1"));
  EXPECT_THAT(at(0x10000, 0), HasSubstr("it stands at 65536"));
}

TEST(DeviceCore, APackedRingStandsWithinOneLap) {
  const auto at = [](uint32_t avail, bool avail_wrap, uint32_t used,
                     bool used_wrap) {
    return wrong_packed([=](DeviceCore::Queue& q) {
      q.base = VringBase{avail | (avail_wrap ? 0x8000u : 0u) | used << 16 |
                         (used_wrap ? 0x8000'0000u : 0u)};
    });
  };
  EXPECT_EQ(at(0, true, 0, true), "");
  EXPECT_EQ(at(4, true, 1, true), "");
  EXPECT_EQ(at(1, false, 3, true), "");
  EXPECT_EQ(at(3, false, 3, true), "");  // All in flight.
  EXPECT_THAT(at(1, true, 4, true), HasSubstr("vq 0: it stands at 0x"));
  EXPECT_THAT(at(4, false, 1, true), HasSubstr("vq 0: it stands at 0x"));
  EXPECT_THAT(at(5, true, 0, true), HasSubstr("vq 0: it stands at 0x"));
  EXPECT_THAT(at(0, true, 5, false), HasSubstr("vq 0: it stands at 0x"));
}

TEST(DeviceCore, APackedRingHasOtherPartsAndNoUsedIndex) {
  using Q = DeviceCore::Queue;
  EXPECT_EQ(wrong_packed([](Q&) {}), "");
  EXPECT_THAT(wrong_packed([](Q& q) { q.avail = 0x2002; }),
              HasSubstr("its avail part"));
  EXPECT_THAT(wrong_packed([](Q& q) { q.used_idx = 1; }),
              HasSubstr("it stands at"));
}

TEST(DeviceConfig, HasTheLengthOfTheManifest) {
  EXPECT_TRUE(decode_device_config(Bytes(60), disk()).ok());
  EXPECT_EQ(message_of(decode_device_config(Bytes(61), disk()).status()),
            "device_config: 61 bytes, not 60");
}

// ---------------------------------------------------------------------------
// The inflight area
// ---------------------------------------------------------------------------

const InflightLayout kLayout = {.size = 256, .queues = 2, .queue_size = 128};

Bytes piece(uint64_t offset, size_t size, InflightLayout layout = kLayout) {
  const Bytes bytes(size, static_cast<std::byte>(offset));
  return encode(
      InflightPiece{.layout = layout, .offset = offset, .bytes = bytes});
}

TEST(InflightArea, IsPutTogetherFromItsPieces) {
  InflightAssembler area(kLayout);
  EXPECT_FALSE(area.complete());
  ASSERT_TRUE(area.add(piece(0, 100)).ok());
  EXPECT_FALSE(area.complete());
  ASSERT_TRUE(area.add(piece(100, 156)).ok());
  EXPECT_TRUE(area.complete());
  EXPECT_EQ(area.bytes()[99], std::byte{0});
  EXPECT_EQ(area.bytes()[100], std::byte{100});
}

TEST(InflightArea, OfAnUnknownSizeHasThatOfItsFirstPiece) {
  InflightAssembler area({.size = 0, .queues = 2, .queue_size = 128});
  EXPECT_FALSE(area.complete());
  ASSERT_TRUE(area.add(piece(0, 256)).ok());
  EXPECT_TRUE(area.complete());
}

TEST(InflightArea, WithPiecesThatDoNotFitIsRefused) {
  InflightAssembler area(kLayout);
  ASSERT_TRUE(area.add(piece(0, 100)).ok());
  EXPECT_THAT(message_of(area.add(piece(0, 100))),
              HasSubstr("goes on at 0, not at 100"));
  EXPECT_THAT(message_of(area.add(piece(101, 1))),
              HasSubstr("goes on at 101, not at 100"));
  EXPECT_THAT(message_of(area.add(piece(100, 157))),
              HasSubstr("157 bytes at 100 of an area of 256"));
  EXPECT_THAT(message_of(area.add(piece(100, 0))), HasSubstr("0 bytes at 100"));
  EXPECT_THAT(message_of(area.add(piece(UINT64_MAX, 1))),
              HasSubstr("of an area of 256"));
  EXPECT_THAT(message_of(area.add(piece(100, 1, {512, 2, 128}))),
              HasSubstr("an area of 512 bytes"));
  EXPECT_THAT(message_of(area.add(piece(100, 1, {256, 2, 64}))),
              HasSubstr("2 queues of 64"));
  EXPECT_THAT(message_of(area.add(piece(0, 1, {kMaxInflightArea + 1, 2, 1}))),
              HasSubstr("of an area of"));
  Bytes reserved = piece(100, 1);
  reserved[13] = std::byte{1};
  EXPECT_THAT(message_of(area.add(reserved)), HasSubstr("malformed"));
  EXPECT_THAT(message_of(area.add(Bytes(23))), HasSubstr("malformed"));
}

}  // namespace
}  // namespace vhost
