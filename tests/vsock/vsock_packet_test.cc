// SPDX-License-Identifier: Apache-2.0
//
// Packets of socket devices, and their configuration space.

#include "vhostdev/vsock_packet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace vhost {
namespace {

using ::testing::HasSubstr;

VsockHeader sample() {
  return {.source = {0x0102030405060708, 0x11121314},
          .destination = {2, 0x21222324},
          .length = 3,
          .type = kVsockTypeStream,
          .op = VsockOp::kData,
          .flags = 0x31323334,
          .buffer_size = 0x41424344,
          .forwarded = 0x51525354};
}

std::vector<std::byte> packet(const VsockHeader& header, size_t behind) {
  std::vector<std::byte> out(kVsockHeaderSize + behind);
  encode_vsock_header(header, std::span(out).first<kVsockHeaderSize>());
  return out;
}

TEST(VsockPacket, LiesAsTheSpecificationSays) {
  const auto bytes = packet(sample(), 0);
  EXPECT_EQ(bytes[0], std::byte{0x08});
  EXPECT_EQ(bytes[7], std::byte{0x01});
  EXPECT_EQ(bytes[8], std::byte{2}) << "dst_cid";
  EXPECT_EQ(bytes[16], std::byte{0x14}) << "src_port";
  EXPECT_EQ(bytes[20], std::byte{0x24}) << "dst_port";
  EXPECT_EQ(bytes[24], std::byte{3}) << "len";
  EXPECT_EQ(bytes[28], std::byte{1}) << "type";
  EXPECT_EQ(bytes[30], std::byte{5}) << "op";
  EXPECT_EQ(bytes[32], std::byte{0x34}) << "flags";
  EXPECT_EQ(bytes[36], std::byte{0x44}) << "buf_alloc";
  EXPECT_EQ(bytes[40], std::byte{0x54}) << "fwd_cnt";
}

TEST(VsockPacket, IsReadAsItWasWritten) {
  const auto read = decode_vsock_header(packet(sample(), 3));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, sample());
  EXPECT_TRUE(decode_vsock_header(packet(sample(), 100)).ok())
      << "the rest of the buffer";
}

TEST(VsockPacket, ThatIsCutOffIsDataLoss) {
  const auto whole = packet(sample(), 3);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(absl::IsDataLoss(
        decode_vsock_header(std::span(whole).first(size)).status()))
        << size;
  }
}

TEST(VsockPacket, NamesWhatItIsFor) {
  EXPECT_EQ(to_string(VsockOp::kReset), "RST");
  EXPECT_EQ(to_string(static_cast<VsockOp>(77)), "op 77");
  EXPECT_EQ(to_string(VsockAddress{2, 1234}), "2:1234");
}

TEST(GuestCid, IsFrom3ToBelowTheLast32BitNumber) {
  for (const uint64_t cid : {3ull, 77ull, 0xfffffffeull}) {
    EXPECT_TRUE(check_guest_cid(cid).ok()) << cid;
  }
  for (const uint64_t cid :
       {0ull, 1ull, 2ull, 0xffffffffull, 0x100000000ull, 0x100000003ull}) {
    EXPECT_TRUE(absl::IsInvalidArgument(check_guest_cid(cid))) << cid;
  }
  EXPECT_THAT(std::string(check_guest_cid(2).message()),
              HasSubstr("guest CID 2: 3 to 4294967294 work"));
}

TEST(VsockConfig, HoldsTheCidIn64Bits) {
  const auto bytes = encode_vsock_config(0x01020304);
  EXPECT_EQ(bytes.size(), 8u);
  EXPECT_EQ(bytes[0], std::byte{4});
  EXPECT_EQ(bytes[4], std::byte{0});
  EXPECT_EQ(decode_vsock_config(bytes).value(), 0x01020304u);
  EXPECT_TRUE(absl::IsDataLoss(
      decode_vsock_config(std::span(bytes).first(7)).status()));
  EXPECT_TRUE(
      absl::IsDataLoss(decode_vsock_config(encode_vsock_config(2)).status()));
  EXPECT_TRUE(absl::IsDataLoss(
      decode_vsock_config(encode_vsock_config(0x100000004)).status()));
}

TEST(VsockEvent, IsATransportReset) {
  auto event = vsock_transport_reset_event();
  EXPECT_EQ(event.size(), 4u);
  EXPECT_TRUE(check_vsock_event(event).ok());
  EXPECT_TRUE(absl::IsDataLoss(check_vsock_event(std::span(event).first(3))));
  event[1] = std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(check_vsock_event(event)));
}

}  // namespace
}  // namespace vhost
