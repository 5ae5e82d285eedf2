// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/recording.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/tools/recording_events.h"
#include "tools/vhostctl/recording_text.h"

namespace vhost::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string message_of(const absl::Status& status) {
  return std::string(status.message());
}

TEST(Recording, IsReadBackAsWritten) {
  const std::vector<Event> events = sample_events();
  const std::vector<std::byte> file = encode_all(events);
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{4096}}) {
    const ReadResult read = read_all(file, piece);
    EXPECT_TRUE(read.status.ok()) << read.status;
    EXPECT_EQ(read.events, events);
  }
}

TEST(Recording, OfNothingIsOne) {
  const ReadResult read = read_all(encode_all({}));
  EXPECT_TRUE(read.status.ok()) << read.status;
  EXPECT_TRUE(read.events.empty());
}

TEST(Recording, CutOffAnywhereGivesTheRecordsBeforeAndAnError) {
  const std::vector<Event> events = sample_events();
  const std::vector<std::byte> file = encode_all(events);
  std::vector<size_t> ends = {encode_recording_header(kSampleBegan).size()};
  for (const Event& event : events) {
    ends.push_back(ends.back() + encode_event(event).size());
  }
  for (size_t size = 0; size < file.size(); ++size) {
    const ReadResult read = read_all(std::span(file).first(size));
    const auto whole =
        std::upper_bound(ends.begin(), ends.end(), size) - ends.begin();
    const bool at_end = std::find(ends.begin(), ends.end(), size) != ends.end();
    EXPECT_EQ(read.status.ok(), at_end) << size;
    EXPECT_EQ(read.events.size(),
              static_cast<size_t>(std::max<ptrdiff_t>(whole, 1) - 1))
        << size;
  }
}

TEST(Recording, WithADamagedRecordSaysWhereItIs) {
  const std::vector<Event> events = sample_events();
  const std::vector<std::byte> clean = encode_all(events);
  const size_t second = encode_recording_header(kSampleBegan).size() +
                        encode_event(events[0]).size();
  const size_t third = second + encode_event(events[1]).size();
  for (size_t at = second + 4; at < third; ++at) {
    std::vector<std::byte> file = clean;
    file[at] ^= std::byte{0x10};
    const ReadResult read = read_all(file);
    EXPECT_EQ(read.status.code(), absl::StatusCode::kDataLoss) << at;
    EXPECT_THAT(message_of(read.status),
                HasSubstr(absl::StrCat("record at byte ", second)));
    EXPECT_EQ(read.events.size(), 1u);
  }
}

TEST(Recording, OfALaterVersionIsNotGuessedAt) {
  std::vector<std::byte> file = encode_all(sample_events());
  file[8] = std::byte{2};
  const ReadResult read = read_all(file);
  EXPECT_EQ(read.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(message_of(read.status), HasSubstr("version 2"));
}

TEST(Recording, IsNotAnyOtherFile) {
  const std::string text = "#!/bin/sh\necho this is something else\n";
  const ReadResult read =
      read_all(std::as_bytes(std::span(text.data(), text.size())));
  EXPECT_EQ(read.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(message_of(read.status), HasSubstr("not a recording"));
}

TEST(Recording, ARecordThatSaysItIsHugeIsNotAwaited) {
  std::vector<std::byte> file = encode_all({});
  for (int i = 0; i < 12; ++i) file.push_back(std::byte{0xff});
  EXPECT_THAT(message_of(read_all(file).status),
              HasSubstr("record at byte 24: 4294967295 bytes"));
}

TEST(Recording, AMessageThatIsNotAsLongAsItSaysIsDamaged) {
  std::vector<Event> events = sample_events();
  events[1].bytes.pop_back();
  const ReadResult read = read_all(encode_all(events));
  EXPECT_EQ(read.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(message_of(read.status), HasSubstr("that says 40"));
}

// ---------------------------------------------------------------------------
// Version 1 is what it was
// ---------------------------------------------------------------------------

std::vector<std::byte> golden_file() {
  std::ifstream file(VHOSTDEV_GOLDEN "/recording-1.bin", std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)),
                         std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

TEST(RecordingVersion1, IsReadForEver) {
  const ReadResult read = read_all(golden_file());
  EXPECT_TRUE(read.status.ok()) << read.status;
  EXPECT_EQ(read.events, sample_events());
}

TEST(RecordingVersion1, IsStillWhatIsWritten) {
  EXPECT_EQ(encode_all(sample_events()), golden_file());
}

// ---------------------------------------------------------------------------
// In words
// ---------------------------------------------------------------------------

TEST(RecordingText, HasALineForEachEvent) {
  std::vector<std::string> lines;
  for (const Event& event : sample_events()) lines.push_back(event_text(event));
  EXPECT_THAT(
      lines,
      ElementsAre("0.000001 #1 connection begins",
                  "0.000123 #1 -> ADD_MEM_REG need_reply: region guest "
                  "0x100000 size 0x200000 user 0x7f0000000000 offset 0x0 "
                  "[memfd 2097152]",
                  "0.000235 #1 <- ADD_MEM_REG reply: value 0x0",
                  "0.000250 #1 back-end channel begins",
                  "0.000300 #1 <- BACKEND_CONFIG_CHANGE_MSG need_reply",
                  "0.000400 #1 <- garbage (version 2): "
                  "010000000200000000000000",
                  "2.000000 #1 connection ends: back-end sent garbage: version "
                  "2"));
}

TEST(RecordingText, IsJsonWithTheSameFields) {
  const Json json = event_json(sample_events()[1]);
  EXPECT_EQ(json["message"], "ADD_MEM_REG");
  EXPECT_EQ(json["need_reply"], true);
  EXPECT_EQ(json["reply"], false);
  EXPECT_EQ(json["direction"], "to back-end");
  EXPECT_EQ(json["fds"][0]["kind"], "memfd");
  EXPECT_EQ(json["fields"]["region"][0],
            "guest 0x100000 size 0x200000 user 0x7f0000000000 offset 0x0");
}

Event main_request(std::vector<std::byte> bytes) {
  Event event;
  event.bytes = std::move(bytes);
  return event;
}

// What follows the message's name.
std::string fields_of(const Event& event) {
  const std::string text = event_text(event);
  const size_t colon = text.find(": ");
  return colon == std::string::npos ? "" : text.substr(colon + 2);
}

TEST(RecordingText, DecodesRingsFeaturesAndConfiguration) {
  EXPECT_EQ(fields_of(main_request(wire_message(
                8, 1, user::wire::VringState{.index = 3, .num = 256}))),
            "index 3, num 256");
  EXPECT_EQ(fields_of(main_request(wire_message(12, 1, uint64_t{0x105}))),
            "index 5, no_fd 1");
  EXPECT_EQ(fields_of(main_request(wire_message(16, 1, uint64_t{0x9}))),
            "features 0x9, names MQ REPLY_ACK");
  EXPECT_EQ(fields_of(main_request(wire_message(2, 1, uint64_t{0x30}))),
            "features 0x30");
  EXPECT_EQ(
      fields_of(main_request(wire_message(
          24, 1, user::wire::ConfigHead{.offset = 8, .size = 0, .flags = 1}))),
      "offset 8, size 0, flags 1, bytes ");
}

TEST(RecordingText, ShowsWhatItDoesNotKnowAsBytes) {
  const std::vector<std::byte> payload(40, std::byte{0xab});
  const std::string unknown = event_text(
      main_request(wire_message(999, 1, std::span<const std::byte>(payload))));
  EXPECT_THAT(unknown, HasSubstr("-> message 999: ababab"));
  EXPECT_THAT(unknown, HasSubstr("... (40 bytes)"));
  const std::string cut = event_text(main_request(
      wire_message(9, 1, std::span<const std::byte>(payload).first(3))));
  EXPECT_THAT(cut, HasSubstr("-> SET_VRING_ADDR: ababab"));
}

TEST(RecordingText, DoesNotUpsetATerminal) {
  Event event;
  event.kind = EventKind::kEnd;
  event.text = "\x1b[2J";
  EXPECT_THAT(event_text(event), HasSubstr("\\x1b[2J"));
}

}  // namespace
}  // namespace vhost::ctl
