// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

std::string error_of(absl::string_view line) {
  const absl::StatusOr<Request> request = parse_request(line);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument)
      << line;
  return std::string(request.status().message());
}

TEST(MinivmRequest, IsReadAsItIsWritten) {
  Request request;
  for (int verb = 0; verb <= static_cast<int>(Verb::kTakeOver); ++verb) {
    request = {};
    request.verb = static_cast<Verb>(verb);
    if (request.verb == Verb::kPause) request.devices = true;
    if (request.verb == Verb::kAddMemory) request.size = uint64_t{1} << 63;
    if (request.verb == Verb::kRemoveMemory) request.id = 7;
    if (request.verb == Verb::kMask || request.verb == Verb::kUnmask) {
      request.device = "disk0 \"\\\n\xff";
      request.queue = 1023;
    }
    if (request.verb == Verb::kMigrate || request.verb == Verb::kSave) {
      request.to = request.verb == Verb::kSave ? "/a b" : "tcp:[::1]:65535";
      request.bandwidth = uint64_t{1} << 63;
      request.downtime_ms = kMostDowntimeMs;
      request.no_drain = true;
      request.compare = true;
    }
    const std::string line = to_line(request);
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    const absl::StatusOr<Request> got = parse_request(line);
    ASSERT_TRUE(got.ok()) << line << got.status();
    // What is no UTF-8 is replaced.
    if (request.device.empty()) {
      EXPECT_EQ(*got, request);
    }
    EXPECT_EQ(got->verb, request.verb);
    EXPECT_EQ(got->queue, request.queue);
  }
}

TEST(MinivmRequest, ThatMakesNoSenseIsRefusedByName) {
  EXPECT_THAT(error_of(""), HasSubstr("not one object"));
  EXPECT_THAT(error_of("[]"), HasSubstr("not one object"));
  EXPECT_THAT(error_of("{} {}"), HasSubstr("not one object"));
  EXPECT_THAT(error_of("{}"), HasSubstr("\"command\" is not a text"));
  EXPECT_THAT(error_of(R"({"command":7})"), HasSubstr("not a text"));
  EXPECT_THAT(error_of(R"({"command":"fly\u0007"})"), HasSubstr("fly\\x07"));
  EXPECT_THAT(error_of(R"({"command":"pause","devices":1})"),
              HasSubstr("true or false"));
  EXPECT_THAT(error_of(R"({"command":"add-memory"})"),
              HasSubstr("\"size\" is not a number"));
  EXPECT_THAT(error_of(R"({"command":"add-memory","size":-1})"),
              HasSubstr("\"size\" is not a number"));
  EXPECT_THAT(error_of(R"({"command":"add-memory","size":1.5})"),
              HasSubstr("\"size\" is not a number"));
  EXPECT_THAT(error_of(R"({"command":"add-memory","size":1e400})"),
              HasSubstr("not one object"));
  EXPECT_THAT(error_of(R"({"command":"mask","device":"a","queue":1024})"),
              HasSubstr("up to 1023"));
  EXPECT_THAT(error_of(R"({"command":"pause","no_drain":"no"})"),
              HasSubstr("true or false"));
  EXPECT_THAT(error_of(R"({"command":"migrate"})"),
              HasSubstr("\"to\" is not a text"));
  EXPECT_THAT(error_of(R"({"command":"migrate","to":"/a"})"),
              HasSubstr("\"to\": tcp:HOST:PORT or unix:PATH is expected"));
  EXPECT_THAT(
      error_of(R"({"command":"migrate","to":"unix:/a","downtime_ms":3600001})"),
      HasSubstr("up to 3600000"));
  EXPECT_THAT(error_of(R"({"command":"save","to":"a"})"),
              HasSubstr("not an absolute path"));
  EXPECT_THAT(error_of(R"({"command":"save","to":"/a\u0000b"})"),
              HasSubstr("not an absolute path"));
  EXPECT_THAT(error_of(R"({"command":"status","now":1,"or":2})"),
              HasSubstr("2 fields that the command does not have"));
}

TEST(MinivmRequest, ThatIsTooLongIsRefused) {
  std::string line = R"({"command":"status"})";
  line.resize(kMostRequestBytes, ' ');
  EXPECT_TRUE(parse_request(line).ok());
  line += ' ';
  EXPECT_THAT(error_of(line), HasSubstr("4097 bytes"));
}

TEST(MinivmRequest, IsAnsweredInALine) {
  ctl::Json answer = ctl::Json::object();
  answer["text"] = "a\nb\xff";
  const std::string line = to_line(answer);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_THAT(line, HasSubstr(R"({"ok":true,"text":"a\nb)"));
  EXPECT_EQ(to_line(absl::NotFoundError("no piece")),
            "{\"ok\":false,\"error\":\"NOT_FOUND: no piece\"}\n");
}

}  // namespace
}  // namespace vhost::minivm
