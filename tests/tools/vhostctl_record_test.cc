// SPDX-License-Identifier: Apache-2.0
//
// vhostctl record between vhostctl and real back-ends, and vhostctl decode of
// what it wrote.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "tests/peers/daemon.h"
#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr auto kPatience = std::chrono::seconds(60);

class Recorded : public ::testing::TestWithParam<DiskServer> {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    ASSERT_TRUE(make_image(dir_.file("disk.img"), uint64_t{4} << 20).ok());
    start_server();
    start_recorder();
  }

  void start_server() {
    auto server = start_disk(GetParam(), dir_.file("disk.img"),
                             dir_.file("back.sock"), 2);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void start_recorder() {
    // It says so once it listens.
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd out(ends[0]);
    UniqueFd in(ends[1]);
    Process::Streams streams;
    streams.out = in;
    auto recorder = Process::start(
        {find_program("vhostctl"), "record", "--listen", socket(), "--connect",
         dir_.file("back.sock"), "--output", recording()},
        streams);
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    recorder_ = *std::move(recorder);
    in.reset();
    char first = 0;
    ASSERT_EQ(::read(out.get(), &first, 1), 1) << "the recorder ended";
  }

  // Ends it as a user does.
  void stop_recorder() {
    recorder_->signal(SIGINT);
    EXPECT_EQ(recorder_->wait(kPatience), 0);
  }

  Finished verify() {
    return vhostctl({"blk", "verify", "--socket", socket(), "--queues=2"});
  }

  // The events of the recording.
  std::vector<nlohmann::json> decode(int exit = 0) {
    const Finished run = vhostctl({"decode", recording(), "--json"});
    EXPECT_EQ(run.exit, exit) << run.err;
    std::vector<nlohmann::json> out;
    for (const absl::string_view line :
         absl::StrSplit(run.out, '\n', absl::SkipEmpty())) {
      out.push_back(document(std::string(line)));
    }
    return out;
  }

  std::string socket() const { return dir_.file("front.sock"); }
  std::string recording() const { return dir_.file("recording"); }

  TempDir dir_;
  std::unique_ptr<Process> server_;
  std::unique_ptr<Process> recorder_;
};

// The messages of one connection: "> NAME" and "< NAME".
std::vector<std::string> messages(const std::vector<nlohmann::json>& events,
                                  uint32_t connection) {
  std::vector<std::string> out;
  for (const nlohmann::json& event : events) {
    if (event["event"] != "message" || event["connection"] != connection) {
      continue;
    }
    const bool to_back = event["direction"] == "to back-end";
    out.push_back((to_back ? "> " : "< ") +
                  event["message"].get<std::string>());
  }
  return out;
}

TEST_P(Recorded, AVerificationPassesAndIsThereInOrder) {
  const Finished run = verify();
  EXPECT_EQ(run.exit, 0) << run.err;
  stop_recorder();
  const std::vector<nlohmann::json> events = decode();
  const std::vector<std::string> seen = messages(events, 1);
  const std::vector<std::string> handshake = {
      "> GET_FEATURES",          "< GET_FEATURES",
      "> GET_PROTOCOL_FEATURES", "< GET_PROTOCOL_FEATURES",
      "> SET_PROTOCOL_FEATURES", "> SET_OWNER"};
  ASSERT_GE(seen.size(), handshake.size());
  EXPECT_EQ(std::vector<std::string>(
                seen.begin(),
                seen.begin() + static_cast<ptrdiff_t>(handshake.size())),
            handshake);
  EXPECT_THAT(seen, Contains("< GET_VRING_BASE"));
  bool channel = false;
  bool eventfd = false;
  for (const nlohmann::json& event : events) {
    channel = channel ||
              (event["event"] == "begin" && event["channel"] == "back-end");
    eventfd =
        eventfd ||
        (event["event"] == "message" && event["message"] == "SET_VRING_KICK" &&
         event["reply"] == false && event["fds"][0]["kind"] == "eventfd");
  }
  EXPECT_TRUE(channel) << "the back-end's channel is recorded too";
  EXPECT_TRUE(eventfd);
  EXPECT_EQ(events.back()["event"], "end");
}

TEST_P(Recorded, OneClientAfterAnother) {
  EXPECT_EQ(vhostctl({"blk", "id", "--socket", socket()}).exit, 0);
  EXPECT_EQ(vhostctl({"blk", "flush", "--socket", socket()}).exit, 0);
  stop_recorder();
  const std::vector<nlohmann::json> events = decode();
  EXPECT_THAT(messages(events, 1), Contains("> GET_FEATURES"));
  EXPECT_THAT(messages(events, 2), Contains("> GET_FEATURES"));
  EXPECT_THAT(messages(events, 3), IsEmpty());
}

TEST_P(Recorded, AKilledRecorderLeavesWhatItRecorded) {
  EXPECT_EQ(vhostctl({"blk", "id", "--socket", socket()}).exit, 0);
  recorder_->signal(SIGKILL);
  EXPECT_EQ(recorder_->wait(kPatience), 128 + SIGKILL);
  const std::vector<std::string> seen = messages(decode(), 1);
  EXPECT_THAT(seen, Contains("< GET_VRING_BASE"));
}

TEST_P(Recorded, ABackEndThatIsNotThereIsUnavailableUntilItIs) {
  server_->signal(SIGKILL);
  EXPECT_EQ(server_->wait(kPatience), 128 + SIGKILL);
  const Finished failed = vhostctl({"blk", "id", "--socket", socket()});
  EXPECT_EQ(failed.exit, 1);
  EXPECT_TRUE(is_error_line(failed.err, "UNAVAILABLE"));
  ::unlink(dir_.file("back.sock").c_str());
  start_server();
  EXPECT_EQ(vhostctl({"blk", "id", "--socket", socket()}).exit, 0);
  stop_recorder();
  EXPECT_THAT(messages(decode(), 2), Contains("> GET_FEATURES"));
}

INSTANTIATE_TEST_SUITE_P(Of, Recorded,
                         ::testing::Values(DiskServer::kModel,
                                           DiskServer::kQemu),
                         [](const auto& which) {
                           return which.param == DiskServer::kQemu ? "Qemu"
                                                                   : "Model";
                         });

class Decode : public Recorded {};

TEST_P(Decode, PrintsWhatIsReadableOfACutOffRecordingAndFails) {
  EXPECT_EQ(vhostctl({"blk", "id", "--socket", socket()}).exit, 0);
  stop_recorder();
  const size_t whole = decode().size();
  std::ifstream file(recording(), std::ios::binary | std::ios::ate);
  const auto size = static_cast<off_t>(file.tellg());
  ASSERT_EQ(::truncate(recording().c_str(), size - 3), 0);
  const Finished run = vhostctl({"decode", recording()});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DATA_LOSS"));
  EXPECT_THAT(run.err, HasSubstr("ends within the record at byte "));
  EXPECT_EQ(decode(1).size(), whole - 1);
}

INSTANTIATE_TEST_SUITE_P(Of, Decode, ::testing::Values(DiskServer::kModel));

TEST(RecordUsage, NeedsBothEnds) {
  EXPECT_EQ(vhostctl({"record", "--listen", "/x"}).exit, 2);
  EXPECT_EQ(vhostctl({"record", "--connect", "/x"}).exit, 2);
}

TEST(DecodeUsage, NeedsOneFile) {
  EXPECT_EQ(vhostctl({"decode"}).exit, 2);
  EXPECT_EQ(vhostctl({"decode", "a", "b"}).exit, 2);
  const Finished absent = vhostctl({"decode", "/nonexistent"});
  EXPECT_EQ(absent.exit, 1);
  EXPECT_TRUE(is_error_line(absent.err, "NOT_FOUND"));
}

TEST_F(ModelDisk, ThatHangsUpIsExplainedInFullIfAskedTo) {
  ModelOptions options;
  options.on_message = [](const ModelMessage& message) {
    ModelVerdict verdict;
    constexpr uint32_t kSetVringAddr = 9;
    if (message.request == kSetVringAddr) {
      verdict.kind = ModelVerdict::Kind::kHangUp;
    }
    return verdict;
  };
  serve(options);
  const Finished run =
      vhostctl({"blk", "id", "--verbose", "--socket", socket()});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, AllOf(HasSubstr("vhostctl: UNAVAILABLE: "),
                             HasSubstr("start in progress\n"),
                             HasSubstr("last messages:\n"),
                             HasSubstr(" -> SET_VRING_ADDR vq 0 (40 bytes")));
}

}  // namespace
}  // namespace vhost::testing
