// SPDX-License-Identifier: Apache-2.0
//
// Saved drivers as bytes.
#include "vhostdev/driver_state.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vhostdev/state_bytes.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

DriverState driver_state() {
  DriverState out;
  out.features = FeatureSet{kFeatureVersion1, kFeatureEventIdx, 100};
  out.fixed = 1;
  out.depth = 64;
  out.indirect_entries = 3;
  out.queues.resize(2);
  out.queues[1].position = VringBase{0x1234};
  out.queues[1].ring_gpa = 0x0102030405060708;
  out.queues[1].tables_gpa = 0xc000'1000;
  out.queues[1].ring.submitted = 0x1236;
  out.queues[1].ring.published = 0x1235;
  out.queues[1].ring.taken = 0x1234;
  out.queues[1].ring.interrupts = true;
  out.queues[1].ring.in_flight = {{7, 512, 2}, {~uint64_t{0}, 0, 1}};
  out.queues[1].ring.chains = {4, 2, 63};
  return out;
}

BlkClientState blk_state() {
  BlkClientState out;
  out.config.capacity = 2048;
  out.config.seg_max = 126;
  out.config.num_queues = 4;
  out.config.flush = true;
  out.config.write_zeroes_may_unmap = true;
  out.config.max_write_zeroes_sectors = 99;
  out.depth = 32;
  out.id_gpa = 0xc0000000;
  out.queues.resize(2);
  out.queues[0].wires_gpa = 0xc0000040;
  out.queues[0].in_flight = {{3, 12, BlkOp::kWrite, 4096},
                             {31, 0, BlkOp::kWriteZeroes, 0}};
  return out;
}

NetClientState net_state() {
  NetClientState out;
  out.send_depth = 64;
  out.max_frame = 1518;
  out.buffers = 16;
  out.buffer_size = 2048;
  out.pairs.resize(1);
  out.pairs[0].send_gpa = 0xc0001000;
  out.pairs[0].in_flight = {{5, 77}, {6, 78}};
  out.pairs[0].sent = {{6, 0}};
  out.pairs[0].receive_gpa = 0xc0002000;
  out.pairs[0].received = {{1, 60}, {0, 1500}};
  return out;
}

TEST(DriverStateBytes, ComeBackAsTheyWere) {
  EXPECT_EQ(decode_driver_state(encode(driver_state())).value(),
            driver_state());
  EXPECT_EQ(decode_blk_client_state(encode(blk_state())).value(), blk_state());
  EXPECT_EQ(decode_net_client_state(encode(net_state())).value(), net_state());
}

// What docs/formats/driver_state.md shows.
TEST(DriverStateBytes, AreAsDocumented) {
  NetClientState state;
  state.send_depth = 2;
  state.max_frame = 1518;
  state.buffers = 1;
  state.buffer_size = 2048;
  state.pairs.resize(1);
  state.pairs[0].send_gpa = 0xc0001000;
  state.pairs[0].in_flight = {{1, 7}};
  state.pairs[0].receive_gpa = 0xc0002000;
  const std::string expected(
      "\0\0\0\1"                              // version
      "\0\0\0\2\0\0\5\xee\0\0\0\1\0\0\x08\0"  // sizes
      "\0\0\0\1"                              // pairs
      "\0\0\0\0\xc0\0\x10\0"                  // send_gpa
      "\0\0\0\1\0\0\0\1\0\0\0\0\0\0\0\7"      // in flight
      "\0\0\0\0"                              // sent
      "\0\0\0\0\xc0\0\x20\0"                  // receive_gpa
      "\0\0\0\0",                             // received
      64);
  EXPECT_EQ(encode(state), expected);
}

// Whatever is cut off, it is no state.
template <typename Decode>
void expect_all_prefixes_refused(const std::string& bytes, Decode decode) {
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto cut = decode(absl::string_view(bytes).substr(0, size));
    EXPECT_EQ(cut.status().code(), kDataLoss) << size;
  }
  const auto longer = decode(bytes + '\0');
  EXPECT_EQ(longer.status().code(), kDataLoss);
  EXPECT_THAT(std::string(longer.status().message()),
              HasSubstr("1 bytes too many"));
}

TEST(DriverStateBytes, EveryTruncationIsRefused) {
  expect_all_prefixes_refused(encode(driver_state()), decode_driver_state);
  expect_all_prefixes_refused(encode(blk_state()), decode_blk_client_state);
  expect_all_prefixes_refused(encode(net_state()), decode_net_client_state);
}

// No two inputs say the same: what is accepted is what is written.
template <typename Decode>
void expect_one_form(const std::string& bytes, Decode decode) {
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      const auto state = decode(changed);
      if (state.ok()) {
        EXPECT_EQ(encode(*state), changed) << at;
      } else {
        EXPECT_EQ(state.status().code(), kDataLoss) << at;
      }
    }
  }
}

TEST(DriverStateBytes, HaveOneForm) {
  expect_one_form(encode(driver_state()), decode_driver_state);
  expect_one_form(encode(blk_state()), decode_blk_client_state);
  expect_one_form(encode(net_state()), decode_net_client_state);
}

TEST(DriverStateBytes, AnotherVersionIsRefused) {
  std::string bytes = encode(driver_state());
  bytes[3] = 2;
  const auto state = decode_driver_state(bytes);
  EXPECT_EQ(state.status().code(), kDataLoss);
  EXPECT_THAT(std::string(state.status().message()), HasSubstr("version 2"));
}

TEST(DriverStateBytes, NumbersThatTheRestCannotHoldAreRefused) {
  StateWriter out;
  out.u32(1);
  out.u64(0);
  out.u64(0);
  out.u32(0);
  out.u32(8);
  out.u32(0);
  out.u32(0xffffffff);
  const auto state = decode_driver_state(out.out());
  EXPECT_THAT(std::string(state.status().message()),
              HasSubstr("4294967295 of something"));
}

TEST(StateBytes, ReadsWhatWasWritten) {
  StateWriter out;
  out.u8(0x12);
  out.u16(0x3456);
  out.boolean(true);
  out.bytes("abc");
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{127}, uint64_t{128}, ~uint64_t{0}}) {
    out.varint(value);
  }
  StateReader in(out.out());
  EXPECT_EQ(in.u8(), 0x12);
  EXPECT_EQ(in.u16(), 0x3456);
  EXPECT_TRUE(in.boolean());
  EXPECT_EQ(in.bytes(3), "abc");
  EXPECT_EQ(in.varint(), 0u);
  EXPECT_EQ(in.varint(), 127u);
  EXPECT_EQ(in.varint(), 128u);
  EXPECT_EQ(in.varint(), ~uint64_t{0});
  EXPECT_TRUE(in.finish().ok());
}

TEST(StateBytes, KeepsWhatWasWrongFirst) {
  StateReader in(absl::string_view("\2\0", 2));
  EXPECT_FALSE(in.boolean());
  in.refuse("something else");
  EXPECT_EQ(in.u32(), 0u);
  EXPECT_THAT(std::string(in.finish().message()),
              HasSubstr("neither yes nor no: 2 at byte 1"));
}

TEST(StateBytes, NumbersInALongerFormAreRefused) {
  for (const absl::string_view bytes :
       {absl::string_view("\x80\0", 2),
        absl::string_view("\xff\xff\xff\xff\xff\xff\xff\xff\xff\2", 10),
        absl::string_view("\x80", 1)}) {
    StateReader in(bytes);
    EXPECT_EQ(in.varint(), 0u);
    EXPECT_FALSE(in.ok());
  }
}

TEST(StateBytes, BytesOfMoreThanIsAllowedAreRefused) {
  StateWriter out;
  out.bytes("abcd");
  StateReader in(out.out());
  EXPECT_EQ(in.bytes(3), "");
  EXPECT_FALSE(in.ok());
}

}  // namespace
}  // namespace vhost
