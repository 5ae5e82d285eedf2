// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "migration/fields.h"
#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

std::string refusal(const Manifest& manifest) {
  const auto bytes = encode(manifest);
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument);
  return message_of(bytes.status());
}

// The fields of the sample, to be changed.
FieldWriter begun() {
  FieldWriter out;
  out.add(1, uint16_t{1}, uint16_t{0});
  out.add(2, uint64_t{0}, uint64_t{0});
  out.add(3, uint8_t{1});
  return out;
}

TEST(Manifest, IsReadBackAsWritten) {
  const Manifest manifest = sample_manifest();
  const auto bytes = encode(manifest);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto again = decode_manifest(*bytes);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, manifest);
}

TEST(Manifest, OfAMachineWithoutDevicesIsOne) {
  const Manifest manifest;
  const auto again = decode_manifest(*encode(manifest));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, manifest);
}

TEST(Manifest, CutOffAnywhereIsRefusedOrLacksWholeFields) {
  const Bytes bytes = *encode(sample_manifest());
  size_t whole = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto manifest = decode_manifest(std::span(bytes).first(size));
    // Between two devices or blocks it is a smaller manifest: the record's own
    // size and hash are there for that.
    if (manifest.ok()) ++whole;
  }
  EXPECT_EQ(whole, 4u);
}

TEST(Manifest, WithValuesThatCannotBeIsRefused) {
  Manifest bad = sample_manifest();
  bad.page_size = 6000;
  EXPECT_THAT(refusal(bad), HasSubstr("pages of 6000 bytes"));
  bad = sample_manifest();
  bad.integrity = Integrity{0};
  EXPECT_THAT(refusal(bad), HasSubstr("integrity 0"));
  bad = sample_manifest();
  bad.blocks[1].id = 0;
  EXPECT_THAT(refusal(bad), HasSubstr("two blocks 0"));
  bad = sample_manifest();
  bad.blocks[1].size = 4097;
  EXPECT_THAT(refusal(bad), HasSubstr("block 1: 4097 bytes in pages of 4096"));
  bad = sample_manifest();
  bad.blocks[1].gpa = UINT64_MAX - 4095;
  EXPECT_THAT(refusal(bad), HasSubstr("block 1: 65536 bytes at 0x"));
  bad = sample_manifest();
  bad.blocks[0].name = "ram\n";
  EXPECT_THAT(refusal(bad), HasSubstr("block 0: its name"));
  bad = sample_manifest();
  bad.blocks.assign(kMaxRamBlocks + 1, bad.blocks[0]);
  EXPECT_THAT(refusal(bad), HasSubstr("4097 blocks of RAM"));
}

TEST(Manifest, WithDevicesThatCannotBeIsRefused) {
  const auto refused = [](auto change) {
    Manifest bad = sample_manifest();
    change(bad.devices[0]);
    return refusal(bad);
  };
  using D = DeviceManifest;
  EXPECT_THAT(refused([](D& d) { d.name = ""; }), HasSubstr("its name"));
  EXPECT_THAT(refused([](D& d) { d.name = std::string(256, 'x'); }),
              HasSubstr("its name"));
  EXPECT_THAT(refused([](D& d) { d.device_class = "\x7f"; }),
              HasSubstr("its class"));
  EXPECT_THAT(refused([](D& d) { d.backend = ""; }),
              HasSubstr("its back-end's kind"));
  EXPECT_THAT(refused([](D& d) { d.log_page = 0; }), HasSubstr("log page"));
  EXPECT_THAT(refused([](D& d) { d.config_length = 4097; }),
              HasSubstr("4097 bytes of configuration"));
  EXPECT_THAT(refused([](D& d) { d.queue_sizes = {32769}; }),
              HasSubstr("a queue of 32769"));
  EXPECT_THAT(refused([](D& d) { d.queue_sizes.assign(1025, 1); }),
              HasSubstr("1025 queues"));
  EXPECT_THAT(refused([](D& d) { d.inflight->queues = 0; }),
              HasSubstr("inflight area"));
  EXPECT_THAT(refused([](D& d) { d.inflight->size = kMaxInflightArea + 1; }),
              HasSubstr("inflight area"));
  EXPECT_THAT(refused([](D& d) { d.id = 9; }), HasSubstr("two devices 9"));
  EXPECT_THAT(refused([](D& d) { d.name = "files"; }),
              HasSubstr("two devices files"));
  EXPECT_THAT(refused([](D& d) { d.blockers.assign(257, "no"); }),
              HasSubstr("257 blockers"));
}

TEST(Manifest, WithAnUnknownFieldIsReadUnlessTheFieldIsCritical) {
  FieldWriter known = begun();
  known.add(4, uint64_t{4096});
  Bytes bytes = known.take();
  const Bytes unknown = [] {
    FieldWriter out;
    out.add_text(40, "from the future");
    return out.take();
  }();
  bytes.insert(bytes.end(), unknown.begin(), unknown.end());
  EXPECT_EQ(decode_manifest(bytes).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_THAT(message_of(decode_manifest(bytes).status()),
              HasSubstr("manifest: unknown field 40"));
  // Its flags.
  bytes[bytes.size() - unknown.size() + 3] = std::byte{0};
  EXPECT_TRUE(decode_manifest(bytes).ok());
  bytes[bytes.size() - unknown.size() + 2] = std::byte{1};
  EXPECT_EQ(decode_manifest(bytes).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(Manifest, WithFieldsMissingTwiceOrOutOfOrderIsRefused) {
  FieldWriter missing = begun();
  EXPECT_THAT(message_of(decode_manifest(missing.take()).status()),
              HasSubstr("field 4 missing"));
  FieldWriter twice = begun();
  twice.add(3, uint8_t{1});
  EXPECT_THAT(message_of(decode_manifest(twice.take()).status()),
              HasSubstr("field 3 twice"));
  FieldWriter order = begun();
  order.add(2, uint64_t{0}, uint64_t{0});
  EXPECT_THAT(message_of(decode_manifest(order.take()).status()),
              HasSubstr("field 2 after field 3"));
  FieldWriter size = begun();
  size.add(4, uint32_t{4096});
  EXPECT_THAT(message_of(decode_manifest(size.take()).status()),
              HasSubstr("field 4 malformed"));
}

TEST(Manifest, NamesTheDeviceThatIsMalformed) {
  FieldWriter out = begun();
  out.add(4, uint64_t{4096});
  out.add_bytes(6, {});
  const absl::Status status = decode_manifest(out.take()).status();
  EXPECT_EQ(status.code(), kDataLoss);
  EXPECT_THAT(message_of(status),
              HasSubstr("manifest: device number 0: field 1 missing"));
}

TEST(ManifestAnswer, IsReadBackAsWritten) {
  const ManifestAnswer answer{{"disk0: too large", "no"}};
  const auto again = decode_manifest_answer(encode(answer));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, answer);
  EXPECT_TRUE(
      decode_manifest_answer(encode(ManifestAnswer{}))->reasons.empty());
}

TEST(ManifestAnswer, IsCutOffAndMadeFitToBeShown) {
  ManifestAnswer answer;
  answer.reasons.assign(300, "\x1b[31mred\n" + std::string(2000, 'x'));
  const auto again = decode_manifest_answer(encode(answer));
  ASSERT_TRUE(again.ok()) << again.status();
  ASSERT_THAT(again->reasons, SizeIs(kMaxManifestReasons));
  EXPECT_THAT(again->reasons[0], SizeIs(kMaxReason));
  EXPECT_EQ(again->reasons[0].substr(0, 9), "?[31mred?");
}

TEST(ManifestAnswer, ThatIsMalformedIsRefused) {
  const Bytes bytes = encode(ManifestAnswer{{"disk0: too large", "no"}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(
        decode_manifest_answer(std::span(bytes).first(size)).status().code(),
        kDataLoss)
        << size;
  }
  Bytes longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_EQ(decode_manifest_answer(longer).status().code(), kDataLoss);
  Bytes many = bytes;
  many[0] = std::byte{1};
  EXPECT_THAT(message_of(decode_manifest_answer(many).status()),
              HasSubstr("16777218 reasons"));
}

}  // namespace
}  // namespace vhost
