// SPDX-License-Identifier: Apache-2.0
//
// QEMU's bytes of an inflight area.  The expected ones are written out, not
// made with the code under test.
#include "vhostdev/qemu_inflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/migration/stream_kit.h"
#include "vhostdev/migration_records.h"

namespace vhost {
namespace {

using namespace std::string_literals;
using enum QemuInflightForm;
using ::testing::HasSubstr;

QemuInflight sample() {
  return {.queue_size = 0x80, .area = to_bytes("area!")};
}

const std::string& bytes_of_sample(QemuInflightForm form) {
  static const std::string* const plain = new std::string(
      "\0\0\0\0\0\0\0\x05\0\x80"s
      "area!");
  static const std::string* const subsection = new std::string(
      "\x05\x17vhost-user-blk/inflight\0\0\0\x01"s
      "\0\0\0\0\0\0\0\x05\0\x80"s
      "\x05\x1cvhost-inflight-region/buffer\0\0\0\0"s
      "area!");
  return form == kPlain ? *plain : *subsection;
}

class QemuInflightForms : public ::testing::TestWithParam<QemuInflightForm> {
 protected:
  static absl::StatusOr<std::optional<DecodedQemuInflight>> decode(
      absl::string_view bytes) {
    return decode_qemu_inflight(to_bytes(bytes), GetParam());
  }
};

INSTANTIATE_TEST_SUITE_P(Both, QemuInflightForms,
                         ::testing::Values(kPlain, kSubsection),
                         [](const auto& param) {
                           return param.param == kPlain ? "Plain"
                                                        : "Subsection";
                         });

TEST_P(QemuInflightForms, AreWrittenByteForByte) {
  EXPECT_EQ(encode_qemu_inflight(sample(), GetParam()),
            to_bytes(bytes_of_sample(GetParam())));
}

TEST_P(QemuInflightForms, AreReadAndWhatFollowsIsLeft) {
  const std::string& bytes = bytes_of_sample(GetParam());
  const auto read = decode(bytes + "next");
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((*read)->inflight, sample());
  EXPECT_EQ((*read)->bytes, bytes.size());
}

TEST_P(QemuInflightForms, ThatAreNotAllThereYetAreWaitedFor) {
  const std::string& bytes = bytes_of_sample(GetParam());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto read = decode(bytes.substr(0, size));
    ASSERT_TRUE(read.ok()) << size << ": " << read.status();
    EXPECT_FALSE(read->has_value()) << size;
  }
}

TEST_P(QemuInflightForms, OfAnAreaTooLargeAreRefusedAtOnce) {
  std::string bytes = bytes_of_sample(GetParam());
  const size_t size = GetParam() == kPlain ? 0 : 29;
  bytes.resize(size + 8);
  bytes[size + 3] = 1;  // 4 GiB more.
  EXPECT_EQ(decode(bytes).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_P(QemuInflightForms, OfQueuesWithoutEntriesAreRefused) {
  std::string bytes = bytes_of_sample(GetParam());
  bytes[bytes.find('\x80')] = 0;
  EXPECT_EQ(decode(bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(QemuInflightTest, NoAreaIsASizeOfZeroOrNothing) {
  EXPECT_EQ(encode_qemu_inflight({}, kPlain), Bytes(8));
  EXPECT_THAT(encode_qemu_inflight({}, kSubsection), ::testing::IsEmpty());
  const auto none = decode_qemu_inflight(Bytes(9), kPlain);
  ASSERT_TRUE(none.ok() && none->has_value());
  EXPECT_EQ((*none)->inflight, QemuInflight{});
  EXPECT_EQ((*none)->bytes, 8u);
}

TEST(QemuInflightTest, AnotherSectionIsRefused) {
  const std::string& right = bytes_of_sample(kSubsection);
  // Every byte that says what it is: marks, lengths, names, versions.
  const size_t size_at = 29;
  const size_t buffer_at = size_at + 10;
  for (size_t i = 0; i < right.size() - sample().area.size(); ++i) {
    if (i >= size_at && i < buffer_at) continue;
    std::string bytes = right;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x40);
    const auto read = decode_qemu_inflight(to_bytes(bytes), kSubsection);
    EXPECT_FALSE(read.ok()) << "byte " << i;
  }
}

TEST(QemuInflightTest, AnotherVersionIsNotGuessedAt) {
  std::string bytes = bytes_of_sample(kSubsection);
  bytes[28] = 2;
  const auto read = decode_qemu_inflight(to_bytes(bytes), kSubsection);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(message_of(read.status()), HasSubstr("of version 2"));
}

}  // namespace
}  // namespace vhost
