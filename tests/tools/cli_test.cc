// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <variant>
#include <vector>

namespace vhost::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

absl::StatusOr<std::variant<Options, HelpText>> parse(
    std::initializer_list<const char*> words) {
  std::vector<std::string> texts = {"vhostctl"};
  texts.insert(texts.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (std::string& text : texts) argv.push_back(text.data());
  return parse_command_line(argv);
}

// What the options are; the test fails if there are none.
Options options_of(std::initializer_list<const char*> words) {
  const auto parsed = parse(words);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  if (!parsed.ok() || !std::holds_alternative<Options>(*parsed)) return {};
  return std::get<Options>(*parsed);
}

std::string help_of(std::initializer_list<const char*> words) {
  const auto parsed = parse(words);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  if (!parsed.ok() || !std::holds_alternative<HelpText>(*parsed)) return {};
  return std::get<HelpText>(*parsed).text;
}

std::string error_of(std::initializer_list<const char*> words) {
  const auto parsed = parse(words);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(CommandLine, HasTheDocumentedDefaults) {
  const Options options = options_of({"blk", "verify", "--socket", "s"});
  EXPECT_EQ(options.command, Command::kBlkVerify);
  EXPECT_EQ(options.socket, "s");
  EXPECT_EQ(options.queues, 1u);
  EXPECT_EQ(options.depth, 32u);
  EXPECT_EQ(options.timeout, std::chrono::seconds(5));
  EXPECT_FALSE(options.json);
  EXPECT_FALSE(options.seconds.has_value());
  EXPECT_FALSE(options.size.has_value());
  EXPECT_FALSE(options.reconnect);
  EXPECT_FALSE(options.reconnect_timeout.has_value());
}

TEST(CommandLine, ReconnectsOnlyWhereABackEndCanComeBack) {
  const Options options = options_of(
      {"blk", "verify", "--listen=s", "--reconnect", "--reconnect-timeout=9"});
  EXPECT_TRUE(options.reconnect);
  EXPECT_EQ(options.reconnect_timeout, std::chrono::seconds(9));
  EXPECT_THAT(error_of({"blk", "verify", "--fd=3", "--reconnect"}),
              HasSubstr("--reconnect needs --socket or --listen"));
  EXPECT_THAT(error_of({"blk", "verify", "--vdpa=p", "--reconnect"}),
              HasSubstr("--reconnect needs --socket or --listen"));
  EXPECT_THAT(
      error_of({"blk", "verify", "--socket=s", "--reconnect-timeout=1"}),
      HasSubstr("--reconnect-timeout needs --reconnect"));
}

TEST(CommandLine, TakesAValueBehindABlankOrAnEqualsSign) {
  const Options options = options_of(
      {"blk", "read", "--socket=s", "--offset", "4K", "--length=512",
       "--output", "f", "--queues=4", "--depth=8", "--timeout=0.5", "--json"});
  EXPECT_EQ(options.offset, 4096u);
  EXPECT_EQ(options.length, 512u);
  EXPECT_EQ(options.output, "f");
  EXPECT_EQ(options.queues, 4u);
  EXPECT_EQ(options.depth, 8u);
  EXPECT_EQ(options.timeout, std::chrono::milliseconds(500));
  EXPECT_TRUE(options.json);
}

TEST(CommandLine, TakesADescriptorAndDescriptorZeroToo) {
  EXPECT_EQ(options_of({"info", "--fd", "0"}).fd, 0);
  EXPECT_EQ(options_of({"info", "--fd", "7"}).fd, 7);
}

TEST(CommandLine, KnowsEveryCommand) {
  EXPECT_EQ(options_of({"info", "--listen", "s"}).command, Command::kInfo);
  EXPECT_EQ(options_of({"blk", "id", "--fd=3"}).command, Command::kBlkId);
  EXPECT_EQ(options_of({"blk", "read", "--fd=3"}).command, Command::kBlkRead);
  EXPECT_EQ(options_of({"blk", "write", "--fd=3"}).command, Command::kBlkWrite);
  EXPECT_EQ(options_of({"blk", "flush", "--fd=3"}).command, Command::kBlkFlush);
  EXPECT_EQ(options_of({"blk", "check-file"}).command, Command::kBlkCheckFile);
  EXPECT_EQ(options_of({"net", "echo", "--socket=a", "--socket2=b"}).command,
            Command::kNetEcho);
  EXPECT_EQ(options_of({"net", "echo", "--kernel=a", "--tap=b"}).tap, "b");
  EXPECT_EQ(options_of({"bench", "start", "--fd=3"}).command,
            Command::kBenchStart);
}

TEST(CommandLine, PingsThroughASocketOrTheKernel) {
  const Options kernel =
      options_of({"vsock", "ping", "--kernel=k", "--cid=4294967294"});
  EXPECT_EQ(kernel.command, Command::kVsockPing);
  EXPECT_EQ(kernel.cid, 0xfffffffeu);
  EXPECT_EQ(kernel.count, 10u);
  EXPECT_FALSE(kernel.port.has_value());
  const Options user =
      options_of({"vsock", "ping", "--socket=s", "--port=7", "--count=3"});
  EXPECT_EQ(user.port, 7u);
  EXPECT_EQ(user.count, 3u);
  EXPECT_EQ(user.cid, 0u);
  EXPECT_THAT(error_of({"vsock", "ping", "--kernel=k"}), HasSubstr("--cid"));
  EXPECT_THAT(error_of({"vsock", "ping", "--socket=s"}), HasSubstr("--port"));
  EXPECT_THAT(help_of({"vsock", "--help"}),
              HasSubstr("vhostctl vsock ping (--socket PATH | --kernel PATH)"));
}

TEST(CommandLine, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(error_of({"frobnicate"}), HasSubstr("\"frobnicate\""));
  EXPECT_THAT(error_of({"blk", "frobnicate"}), HasSubstr("\"frobnicate\""));
  EXPECT_THAT(error_of({"info", "--frobnicate"}),
              HasSubstr("unknown option --frobnicate"));
  EXPECT_THAT(error_of({"info", "-x"}), HasSubstr("unknown option -x"));
  EXPECT_THAT(error_of({"info", "--queues", "2"}), HasSubstr("--queues"));
  EXPECT_THAT(error_of({"info", "--socket", "s", "stray"}),
              HasSubstr("\"stray\""));
}

TEST(CommandLine, SaysWhatIsMissing) {
  EXPECT_THAT(error_of({}), HasSubstr("a command is missing"));
  EXPECT_THAT(error_of({"blk"}), HasSubstr("a command is missing"));
  EXPECT_THAT(error_of({"info"}), HasSubstr("--socket"));
  EXPECT_THAT(error_of({"info", "--socket"}),
              HasSubstr("a value is missing after --socket"));
}

TEST(CommandLine, RefusesAValueWhereNoneIsTaken) {
  EXPECT_THAT(error_of({"info", "--fd=3", "--json=yes"}),
              HasSubstr("no value is allowed"));
}

TEST(CommandLine, NamesTheOptionWhoseValueIsWrong) {
  EXPECT_THAT(error_of({"blk", "verify", "--fd=3", "--queues=0"}),
              HasSubstr("--queues: \"0\" is not a number from 1"));
  EXPECT_THAT(error_of({"info", "--fd=3", "--timeout=-1"}),
              HasSubstr("--timeout"));
  EXPECT_THAT(error_of({"info", "--fd=-1"}), HasSubstr("--fd"));
  EXPECT_THAT(error_of({"info", "--socket="}), HasSubstr("the path is empty"));
}

TEST(CommandLine, TakesOneWayToConnectOnly) {
  EXPECT_THAT(error_of({"info", "--fd=3", "--socket=s"}),
              HasSubstr("only one of"));
}

TEST(CommandLine, TakesTwoSocketsForAnEcho) {
  const Options options =
      options_of({"net", "echo", "--socket", "a", "--socket2", "b"});
  EXPECT_EQ(options.socket, "a");
  EXPECT_EQ(options.socket2, "b");
  EXPECT_EQ(options.frames, 1000u);
  EXPECT_THAT(error_of({"net", "echo", "--socket=a"}), HasSubstr("--socket2"));
  EXPECT_THAT(error_of({"net", "echo", "--socket2=b"}), HasSubstr("--socket "));
  EXPECT_THAT(error_of({"net", "echo", "--fd=3"}), HasSubstr("--fd"));
}

TEST(CommandLine, RefusesDataAndJsonOnOneStandardOutput) {
  EXPECT_THAT(error_of({"blk", "read", "--fd=3", "--json"}),
              HasSubstr("--json needs --output FILE"));
}

TEST(CommandLine, RefusesToConnectADescriptorTwice) {
  EXPECT_THAT(error_of({"bench", "start", "--fd=3", "--repeat=2"}),
              HasSubstr("--repeat 1"));
}

TEST(CommandLine, EveryErrorIsOneLineAndPointsToTheHelp) {
  const std::string error = error_of({"blk", "read", "--nonsense"});
  EXPECT_THAT(error, HasSubstr("see: vhostctl blk read --help"));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
}

TEST(Help, OfTheProgramListsAllCommandsAndOptions) {
  const std::string help = help_of({"--help"});
  for (const char* part :
       {"vhostctl info",
        "vhostctl blk id",
        "vhostctl blk read",
        "vhostctl blk write",
        "vhostctl blk flush",
        "vhostctl blk verify",
        "vhostctl net echo (--socket PATH --socket2 PATH | --kernel",
        "vhostctl bench start",
        "--socket PATH",
        "--fd N",
        "--listen PATH",
        "--json",
        "--timeout SECONDS",
        "--offset BYTES",
        "--length BYTES",
        "--output FILE|-",
        "--input FILE|-",
        "--queues N",
        "--depth D",
        "--size BYTES",
        "--seed S",
        "--seconds S",
        "--reconnect",
        "--reconnect-timeout SECONDS",
        "--repeat R",
        "--frames N"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
}

TEST(Help, OfAGroupListsItsCommandsOnly) {
  const std::string help = help_of({"blk", "--help"});
  EXPECT_THAT(help, HasSubstr("vhostctl blk verify"));
  EXPECT_THAT(help, HasSubstr("--seconds S"));
  EXPECT_THAT(help, Not(HasSubstr("bench start")));
}

TEST(Help, OfACommandListsItsOptionsOnly) {
  const std::string help = help_of({"blk", "write", "--help"});
  EXPECT_THAT(help, HasSubstr("--input FILE|-"));
  EXPECT_THAT(help, Not(HasSubstr("--output")));
}

TEST(Help, IsGivenBeforeAnythingElseIsChecked) {
  EXPECT_THAT(help_of({"info", "--fd=3", "-h"}), HasSubstr("vhostctl info"));
}

}  // namespace
}  // namespace vhost::ctl
