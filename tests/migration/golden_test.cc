// SPDX-License-Identifier: Apache-2.0
//
// Streams as version 1 writes them, byte by byte: whoever changes the format
// makes a new version, and the files of the old ones stay readable.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/fuzz/stream_scenario.h"
#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::SizeIs;

Bytes golden(absl::string_view name) {
  std::ifstream file(absl::StrCat(VHOSTDEV_GOLDEN, "/", name),
                     std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return to_bytes(text);
}

TEST(GoldenStream, IsWrittenAsInVersion1) {
  EXPECT_EQ(golden("v1.bin"), sample_stream());
  EXPECT_EQ(golden("v1_transport.bin"), sample_stream(Integrity::kTransport));
  EXPECT_EQ(golden("v1_answers.bin"), sample_answers());
}

TEST(GoldenStream, OfVersion1IsRead) {
  const ReadResult read = read_stream(golden("v1.bin"));
  ASSERT_TRUE(read.status.ok()) << read.status;
  ASSERT_THAT(read.records, SizeIs(19));
  EXPECT_EQ(*decode_manifest(read.records[0].payload), sample_manifest());
  const DeviceManifest disk = sample_manifest().devices[0];
  EXPECT_EQ(*decode_device_core(read.records[7].payload, disk), sample_core());
  const ReadResult answers =
      read_stream(golden("v1_answers.bin"), 4096, StreamDirection::kToSource);
  ASSERT_TRUE(answers.status.ok()) << answers.status;
  EXPECT_EQ(decode_abort(answers.records[4].payload),
            absl::AbortedError("vq 1: ?[2Jbad base"));
}

// The bytes of the example in the description of the format.
Bytes example_of_the_description() {
  std::ifstream file(VHOSTDEV_FORMAT);
  Bytes out;
  for (std::string line; std::getline(file, line);) {
    // "0010  00 11 ...", and no table.
    if (line.size() < 8 || line.substr(4, 2) != "  " ||
        line.find_first_not_of("0123456789abcdef ") != std::string::npos) {
      continue;
    }
    std::istringstream bytes(line.substr(6));
    for (unsigned byte = 0; bytes >> std::hex >> byte;) {
      out.push_back(static_cast<std::byte>(byte));
    }
  }
  return out;
}

TEST(GoldenStream, OfTheDescriptionIsWrittenLikeThat) {
  StreamWriter writer;
  ASSERT_TRUE(
      writer.record(RecordType::kManifest, 0, *encode(Manifest{})).ok());
  ASSERT_TRUE(writer.record(RecordType::kGuest, 0, to_bytes("vCPU")).ok());
  ASSERT_TRUE(writer.end().ok());
  EXPECT_EQ(example_of_the_description(), take_pending(writer));
}

// The fuzzer's way of reading gets to the end, damaged or not: what it says
// about other streams is worth something.
TEST(GoldenStream, IsReadToItsEndByTheFuzzer) {
  for (const bool answers : {false, true}) {
    Bytes stream = answers ? sample_answers() : sample_stream();
    const size_t records = answers ? 6 : 19;
    for (const bool damaged : {false, true}) {
      if (damaged) stream[33] ^= std::byte{1};  // The header's checksum.
      std::vector<uint8_t> input = {
          13, static_cast<uint8_t>((answers ? 1 : 0) | 4)};
      for (const std::byte byte : stream) {
        input.push_back(std::to_integer<uint8_t>(byte));
      }
      const StreamOutcome out = run_stream_scenario(input);
      EXPECT_TRUE(out.status.ok()) << out.status;
      EXPECT_EQ(out.records, records);
      EXPECT_EQ(out.decoded, records);
    }
  }
}

}  // namespace
}  // namespace vhost
