// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlock = 16 * kPage;

Bytes pages(uint64_t first, uint32_t count, size_t bytes) {
  const auto head = encode_ram_pages_head(first, count);
  Bytes out(head.begin(), head.end());
  out.resize(out.size() + bytes, std::byte{7});
  return out;
}

TEST(RamBlocks, AreReadBackAsWritten) {
  const std::vector<RamBlock> blocks = sample_manifest().blocks;
  const auto again = decode_ram_blocks(*encode(blocks));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, blocks);
}

TEST(RamBlocks, ThatCannotBeAreRefused) {
  std::vector<RamBlock> blocks = sample_manifest().blocks;
  const Bytes good = *encode(blocks);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(decode_ram_blocks(std::span(good).first(size)).status().code(),
              kDataLoss)
        << size;
  }
  Bytes zero_size = good;
  std::fill(zero_size.begin() + 20, zero_size.begin() + 28, std::byte{0});
  EXPECT_THAT(message_of(decode_ram_blocks(zero_size).status()),
              HasSubstr("ram_blocks: block 0: 0 bytes at 0x0"));
  Bytes many = good;
  many[2] = std::byte{0xff};
  EXPECT_THAT(message_of(decode_ram_blocks(many).status()),
              HasSubstr("65282 blocks"));
  blocks[0].name = "";
  EXPECT_EQ(encode(blocks).status().code(), absl::StatusCode::kInvalidArgument);
  blocks.assign(kMaxRamBlocks + 1, sample_manifest().blocks[0]);
  EXPECT_EQ(encode(blocks).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RamPages, PointIntoThePayload) {
  const Bytes payload = pages(14, 2, 2 * kPage);
  const auto out = decode_ram_pages(payload, kPage, kBlock);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->first_page, 14u);
  EXPECT_THAT(out->bytes, SizeIs(2 * kPage));
  EXPECT_EQ(out->bytes.data(), payload.data() + kRamPagesHead);
}

TEST(RamPages, OutsideTheirBlockAreRefused) {
  const auto said = [](uint64_t first, uint32_t count) {
    return message_of(
        decode_ram_pages(pages(first, count, count * kPage), kPage, kBlock)
            .status());
  };
  EXPECT_EQ(said(15, 1), "");
  EXPECT_EQ(said(15, 2), "ram_pages: 2 pages from page 15 in a block of 16");
  EXPECT_EQ(said(16, 1), "ram_pages: 1 pages from page 16 in a block of 16");
  EXPECT_THAT(said(UINT64_MAX, 1), HasSubstr("in a block of 16"));
  EXPECT_THAT(said(3, 0), HasSubstr("0 pages"));
  EXPECT_THAT(message_of(decode_ram_pages(pages(0, 1, 1), kPage, 100).status()),
              HasSubstr("in a block of 0"));
}

TEST(RamPages, WithOtherBytesThanTheirPagesAreRefused) {
  EXPECT_THAT(
      message_of(decode_ram_pages(pages(0, 2, kPage), kPage, kBlock).status()),
      HasSubstr("4096 bytes of 2 pages"));
  EXPECT_EQ(decode_ram_pages(Bytes(15), kPage, kBlock).status().code(),
            kDataLoss);
  Bytes reserved = pages(0, 1, kPage);
  reserved[12] = std::byte{1};
  EXPECT_EQ(decode_ram_pages(reserved, kPage, kBlock).status().code(),
            kDataLoss);
}

TEST(RamZeroPages, AreInTheirBlock) {
  const auto said = [](uint64_t first, uint64_t count) {
    const Bytes bytes =
        encode(RamZeroPages{.first_page = first, .count = count});
    return message_of(decode_ram_zero_pages(bytes, kPage, kBlock).status());
  };
  EXPECT_EQ(said(0, 16), "");
  EXPECT_THAT(said(0, 17), HasSubstr("ram_zero_pages: 17 pages"));
  EXPECT_THAT(said(1, UINT64_MAX), HasSubstr("in a block of 16"));
  EXPECT_THAT(said(0, 0), HasSubstr("0 pages"));
  EXPECT_EQ(decode_ram_zero_pages(Bytes(17), kPage, kBlock).status().code(),
            kDataLoss);
}

TEST(RoundEnd, IsReadBackAsWritten) {
  const RoundEnd round = {.round = 3, .sent_bytes = 1, .dirty_bytes = 2};
  EXPECT_EQ(*decode_round_end(encode(round)), round);
  EXPECT_EQ(decode_round_end(Bytes(21)).status().code(), kDataLoss);
}

TEST(RamHash, IsReadBackAsWritten) {
  const RamHash hash = {.size = 4096, .hash = 0x0123'4567'89ab'cdef};
  EXPECT_EQ(*decode_ram_hash(encode(hash)), hash);
  EXPECT_EQ(decode_ram_hash(Bytes(15)).status().code(), kDataLoss);
}

TEST(RamHash, DependsOnAllPiecesAndTheirOrder) {
  const Bytes a(kRamHashPiece, std::byte{1});
  const Bytes b(100, std::byte{2});
  const uint64_t whole = ram_hash(ram_hash(0, a), b);
  EXPECT_NE(whole, ram_hash(ram_hash(0, b), a));
  EXPECT_NE(whole, ram_hash(0, b));
  Bytes other = a;
  other.back() = std::byte{0};
  EXPECT_NE(whole, ram_hash(ram_hash(0, other), b));
}

TEST(Abort, CarriesTheReasonAndItsCode) {
  const absl::Status why = absl::DeadlineExceededError("stop: vq 3");
  EXPECT_EQ(decode_abort(encode_abort(why)), why);
}

TEST(Abort, IsNeverOk) {
  EXPECT_FALSE(decode_abort(encode_abort(absl::OkStatus())).ok());
  EXPECT_EQ(decode_abort(Bytes(3)).code(), kDataLoss);
  EXPECT_EQ(decode_abort(Bytes(4)).code(), kDataLoss);  // OK.
  EXPECT_EQ(decode_abort(Bytes(4, std::byte{1})).code(), kDataLoss);
  Bytes longest = encode_abort(absl::AbortedError(std::string(9999, 'x')));
  EXPECT_THAT(message_of(decode_abort(longest)), SizeIs(kMaxAbortReason));
  longest.push_back(std::byte{'x'});
  EXPECT_EQ(decode_abort(longest).code(), kDataLoss);
}

TEST(Abort, ShowsNothingThatATerminalWouldObey) {
  Bytes bytes = encode_abort(absl::AbortedError("no"));
  bytes.push_back(std::byte{0x1b});
  EXPECT_EQ(decode_abort(bytes), absl::AbortedError("no?"));
}

}  // namespace
}  // namespace vhost
