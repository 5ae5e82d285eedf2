// SPDX-License-Identifier: Apache-2.0
#include "backends/user/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace vhost::user {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> of(const Payload& payload) {
  return payload.bytes();
}

MemoryTableEntry entry_at(uint64_t gpa, uint64_t user) {
  MemoryTableEntry out;
  out.gpa = gpa;
  out.size = 0x2000;
  out.user = user;
  out.mmap_offset = 0x4000;
  return out;
}

TEST(Codec, PutsAllEntriesInAMemoryTable) {
  const std::vector<MemoryTableEntry> entries(8, entry_at(0x1000, 0x3000));
  const Payload payload = memory_table_payload(entries, false);
  ASSERT_EQ(of(payload).size(), 8 + 8 * 32u);
  const auto table = wire::read_prefix<wire::MemoryTable>(of(payload));
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(table->head.num_regions, 8u);
  EXPECT_EQ(table->regions[7].guest_address, 0x1000u);
  EXPECT_EQ(table->regions[7].user_address, 0x3000u);
  EXPECT_EQ(table->regions[7].mmap_offset, 0x4000u);
}

TEST(Codec, RepeatsTheGuestAddressWhereGpaAddressesAreInUse) {
  const MemoryTableEntry entry = entry_at(0x1000, 0x3000);
  const auto region = wire::read_prefix<wire::SingleMemoryRegion>(
      of(memory_region_payload(entry, true)));
  ASSERT_TRUE(region.has_value());
  EXPECT_EQ(region->region.user_address, 0x1000u);
  EXPECT_EQ(region->padding, 0u);
}

TEST(Codec, AcceptsOnlyExactReplyFlags) {
  EXPECT_TRUE(check_reply_flags(5).ok());
  for (const uint32_t flags : {0u, 1u, 4u, 6u, 7u, 13u, 21u, 0x80000005u}) {
    EXPECT_EQ(check_reply_flags(flags).code(), absl::StatusCode::kDataLoss)
        << flags;
  }
}

TEST(Codec, AcceptsRequestsWithOrWithoutNeedReply) {
  EXPECT_TRUE(check_request_flags(1).ok());
  EXPECT_TRUE(check_request_flags(9).ok());
  for (const uint32_t flags : {0u, 2u, 3u, 5u, 8u, 17u}) {
    EXPECT_FALSE(check_request_flags(flags).ok()) << flags;
  }
}

TEST(Codec, AnswersAreDueByTheReplyRule) {
  EXPECT_FALSE(reply_shape(Request::kSetVringNum, false, false).has_value());
  EXPECT_TRUE(reply_shape(Request::kSetVringNum, true, false).has_value());
  EXPECT_FALSE(reply_shape(Request::kResetOwner, true, false).has_value());
  EXPECT_TRUE(reply_shape(Request::kGetFeatures, false, false).has_value());
  EXPECT_FALSE(reply_shape(Request::kSetLogBase, false, false).has_value());
  const auto log = reply_shape(Request::kSetLogBase, false, true);
  ASSERT_TRUE(log.has_value());
  EXPECT_TRUE(log->size.has(0) && log->size.has(8) && log->size.has(16));
}

TEST(Codec, AU64InPlaceOfABodyIsARefusal) {
  EXPECT_TRUE(reply_shape(Request::kGetInflightFd, false, false)->u64_refuses);
  EXPECT_TRUE(reply_shape(Request::kGetConfig, false, false)->u64_refuses);
  EXPECT_FALSE(reply_shape(Request::kGetFeatures, false, false)->u64_refuses);
}

TEST(Codec, TellsFromTheReplyWhetherADescriptorComes) {
  const auto inflight = *reply_shape(Request::kGetInflightFd, false, false);
  wire::Inflight area = {};
  EXPECT_EQ(reply_fds(Request::kGetInflightFd, inflight, wire::bytes_of(area)),
            (CountRange{0, 0}));
  area.mmap_size = 1;
  EXPECT_EQ(reply_fds(Request::kGetInflightFd, inflight, wire::bytes_of(area)),
            (CountRange{1, 1}));
  const auto state = *reply_shape(Request::kSetDeviceStateFd, false, false);
  for (const auto& [value, fds] :
       std::vector<std::pair<uint64_t, uint32_t>>{{0, 1}, {0x100, 0}, {5, 0}}) {
    EXPECT_EQ(
        reply_fds(Request::kSetDeviceStateFd, state, wire::bytes_of(value)),
        (CountRange{fds, fds}))
        << value;
  }
}

TEST(Codec, FindsTheQueueOfAMessage) {
  EXPECT_EQ(queue_of(Request::kSetVringNum,
                     wire::bytes_of(wire::VringState{.index = 3, .num = 9})),
            3u);
  EXPECT_EQ(queue_of(Request::kSetVringKick, wire::bytes_of(uint64_t{0x105})),
            5u);
  EXPECT_EQ(queue_of(Request::kSetFeatures, wire::bytes_of(uint64_t{7})),
            std::nullopt);
}

TEST(Codec, EveryTruncationOfAConfigReplyIsDataLoss) {
  const std::vector<std::byte> bytes(8, std::byte{1});
  const Payload whole = config_payload(4, bytes, ConfigWriter::kDriver);
  ASSERT_TRUE(decode_config(of(whole), 4, 8).ok());
  for (size_t size = 1; size < of(whole).size(); ++size) {
    EXPECT_EQ(decode_config(of(whole).first(size), 4, 8).status().code(),
              absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(Codec, AConfigReplyWithoutBytesIsARefusal) {
  EXPECT_EQ(decode_config({}, 0, 8).status().code(),
            absl::StatusCode::kAborted);
  const wire::ConfigHead none = {.offset = 0, .size = 0, .flags = 0};
  EXPECT_EQ(decode_config(wire::bytes_of(none), 0, 8).status().code(),
            absl::StatusCode::kAborted);
}

TEST(Codec, AConfigReplyForAnotherRangeIsDataLoss) {
  const std::vector<std::byte> bytes(8, std::byte{1});
  const Payload payload = config_payload(4, bytes, ConfigWriter::kDriver);
  const auto status = decode_config(of(payload), 0, 8).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("offset 4"));
}

TEST(Codec, TakesInflightRepliesOfBothSizes) {
  const GetInflight asked = {.num_queues = 2, .queue_size = 128};
  const wire::Inflight area = {.mmap_size = 8192,
                               .mmap_offset = 64,
                               .num_queues = 4,
                               .queue_size = 256,
                               .padding = 0};
  for (const size_t size : {size_t{20}, size_t{24}}) {
    const auto out = decode_inflight(wire::bytes_of(area).first(size), asked);
    ASSERT_TRUE(out.ok()) << size;
    EXPECT_EQ(out->mmap_size, 8192u);
    EXPECT_EQ(out->mmap_offset, 64u);
    EXPECT_EQ(out->num_queues, 4);
    EXPECT_EQ(out->queue_size, 256);
  }
  for (const size_t size : {size_t{0}, size_t{19}, size_t{21}, size_t{23}}) {
    EXPECT_FALSE(decode_inflight(wire::bytes_of(area).first(size), asked).ok())
        << size;
  }
}

TEST(Codec, KeepsTheCountsAskedForWhereAnInflightReplyHasZeros) {
  const wire::Inflight area = {.mmap_size = 8192,
                               .mmap_offset = 0,
                               .num_queues = 0,
                               .queue_size = 0,
                               .padding = 0};
  const auto out =
      decode_inflight(wire::bytes_of(area), {.num_queues = 2, .queue_size = 9});
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->num_queues, 2);
  EXPECT_EQ(out->queue_size, 9);
}

TEST(Codec, AU64HasEightBytes) {
  const uint64_t value = 0x0102030405060708;
  EXPECT_EQ(*decode_u64(wire::bytes_of(value)), value);
  for (size_t size = 0; size < 8; ++size) {
    EXPECT_FALSE(decode_u64(wire::bytes_of(value).first(size)).ok()) << size;
  }
  EXPECT_FALSE(
      decode_u64(wire::bytes_of(wire::Log{.mmap_size = 1, .mmap_offset = 2}))
          .ok());
}

}  // namespace
}  // namespace vhost::user
