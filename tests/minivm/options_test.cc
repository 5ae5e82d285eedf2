// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>
#include <vector>

namespace vhost::minivm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<CommandLine> parse(std::vector<std::string> words) {
  words.insert(words.begin(), "minivm");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return parse_command_line(argv);
}

// A run, with what it needs.
absl::StatusOr<CommandLine> parse_run(std::vector<std::string> words) {
  words.insert(words.begin(), {"run", "--memory", "64M", "--guest", "driver",
                               "--disk", "socket=/d"});
  return parse(std::move(words));
}

std::string error_of(const absl::StatusOr<CommandLine>& parsed) {
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(MinivmOptions, HaveDefaults) {
  const auto parsed = parse_run({});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const RunOptions& run = std::get<RunOptions>(*parsed);
  EXPECT_EQ(run.memory, uint64_t{64} << 20);
  EXPECT_EQ(run.cpus, 1u);
  EXPECT_EQ(run.guest, GuestKind::kDriver);
  EXPECT_EQ(run.workload.depth, 32u);
  EXPECT_FALSE(run.workload.seconds.has_value());
  EXPECT_FALSE(run.workload.polled);
  EXPECT_TRUE(run.irqfd && run.ioeventfd);
  EXPECT_EQ(run.mask_mode, MaskMode::kLocal);
  ASSERT_EQ(run.devices.size(), 1u);
  EXPECT_EQ(run.devices[0].path, "/d");
  EXPECT_EQ(run.devices[0].queues, 1u);
  EXPECT_TRUE(run.devices[0].reconnect);
}

TEST(MinivmOptions, AreAllUnderstood) {
  const auto parsed =
      parse({"run", "--memory=3G", "--hugepages", "--cpus=2", "--guest=payload",
             "--payload=/p", "--disk=socket=/d,queues=4,reconnect=off",
             "--net=kernel=tap7", "--disk=vdpa=/dev/v", "--net=socket=/n",
             "--workload=verify,size=1M,depth=8,seconds=2.5,seed=9,polled",
             "--control=/c", "--dump-dtb=/t", "--json", "--mask-mode=backend",
             "--no-irqfd", "--no-ioeventfd"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const RunOptions& run = std::get<RunOptions>(*parsed);
  EXPECT_TRUE(run.hugepages && run.json);
  EXPECT_FALSE(run.irqfd || run.ioeventfd);
  EXPECT_EQ(run.cpus, 2u);
  EXPECT_EQ(run.payload, "/p");
  EXPECT_EQ(run.control, "/c");
  EXPECT_EQ(run.dump_dtb, "/t");
  EXPECT_EQ(run.mask_mode, MaskMode::kBackend);
  EXPECT_EQ(run.workload.size, uint64_t{1} << 20);
  EXPECT_EQ(run.workload.depth, 8u);
  EXPECT_EQ(run.workload.seconds, std::chrono::milliseconds(2500));
  EXPECT_EQ(run.workload.seed, 9u);
  EXPECT_TRUE(run.workload.polled);
  EXPECT_THAT(device_names(run.devices),
              ElementsAre("disk0", "net0", "disk1", "net1"));
  EXPECT_EQ(run.devices[0].queues, 4u);
  EXPECT_FALSE(run.devices[0].reconnect);
  EXPECT_EQ(run.devices[1].backend, BackendKind::kTap);
  EXPECT_EQ(run.devices[1].queues, 2u);
  EXPECT_EQ(run.devices[2].backend, BackendKind::kVdpa);
}

TEST(MinivmOptions, MayAskForReadsAlone) {
  const auto parsed = parse({"run", "--memory=64M", "--guest=payload",
                             "--disk=socket=/d", "--workload=read,polled"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(std::get<RunOptions>(*parsed).workload.read_only);
  EXPECT_TRUE(std::get<RunOptions>(*parsed).workload.polled);
}

TEST(MinivmOptions, SayWhatIsMissing) {
  EXPECT_THAT(error_of(parse({})), HasSubstr("a command is missing; see: "));
  EXPECT_THAT(error_of(parse({"run"})), HasSubstr("--memory is needed"));
  EXPECT_THAT(error_of(parse({"run", "--memory=64M"})),
              HasSubstr("--guest is needed"));
  EXPECT_THAT(error_of(parse({"run", "--memory=64M", "--guest=driver"})),
              HasSubstr("--disk or --net is needed"));
  EXPECT_THAT(error_of(parse_run({"--cpus"})),
              HasSubstr("a value is missing after --cpus"));
}

TEST(MinivmOptions, SayWhatIsWrong) {
  EXPECT_THAT(error_of(parse({"walk"})), HasSubstr("\"walk\""));
  EXPECT_THAT(error_of(parse_run({"--moon"})), HasSubstr("--moon"));
  EXPECT_THAT(error_of(parse_run({"more"})), HasSubstr("\"more\""));
  EXPECT_THAT(error_of(parse_run({"--memory=1"})), HasSubstr("--memory: 1"));
  EXPECT_THAT(error_of(parse_run({"--memory=4G"})), HasSubstr("3.0 GiB"));
  EXPECT_THAT(error_of(parse_run({"--guest=cat"})), HasSubstr("\"cat\""));
  EXPECT_THAT(error_of(parse_run({"--disk=queues=1"})),
              HasSubstr("socket=PATH or vdpa=PATH is needed"));
  EXPECT_THAT(error_of(parse_run({"--disk=socket=/a,vdpa=/b"})),
              HasSubstr("more than one back-end"));
  EXPECT_THAT(error_of(parse_run({"--disk=socket=/a,queues=0"})),
              HasSubstr("from 1 to 1024"));
  EXPECT_THAT(error_of(parse_run({"--disk=socket=/a,colour=red"})),
              HasSubstr("no \"colour\" of a disk"));
  EXPECT_THAT(error_of(parse_run({"--disk=socket=/a,reconnect=yes"})),
              HasSubstr("neither on nor off"));
  EXPECT_THAT(error_of(parse_run({"--net=kernel=a-name-that-is-long"})),
              HasSubstr("at most 15 bytes"));
  EXPECT_THAT(error_of(parse_run({"--workload=sleep"})),
              HasSubstr("does not begin with \"verify\" or \"read\""));
  EXPECT_THAT(error_of(parse_run({"--workload=verify,read"})),
              HasSubstr("no \"read\" of a workload"));
  EXPECT_THAT(error_of(parse_run({"--workload=verify,size=100"})),
              HasSubstr("not a multiple of 4096"));
  EXPECT_THAT(error_of(parse_run({"--workload=verify,polled=yes"})),
              HasSubstr("no \"polled\" of a workload"));
}

TEST(MinivmOptions, AreRefusedWhereTheGuestHasNoUseForThem) {
  EXPECT_THAT(error_of(parse_run({"--payload=/p"})),
              HasSubstr("--payload needs --guest payload"));
  EXPECT_THAT(error_of(parse_run({"--workload=read"})),
              HasSubstr("--workload read needs --guest payload"));
  EXPECT_THAT(error_of(parse_run({"--no-irqfd"})),
              HasSubstr("need --guest payload"));
  EXPECT_THAT(error_of(parse_run({"--net=socket=/n"})),
              HasSubstr("come in twos"));
  EXPECT_TRUE(parse_run({"--net=socket=/n", "--net=socket=/o"}).ok());
  EXPECT_TRUE(parse_run({"--net=kernel=t"}).ok());
}

TEST(MinivmOptions, TakeNoMoreDevicesThanThereAreInterrupts) {
  std::vector<std::string> words(7, "--disk=socket=/d");
  EXPECT_TRUE(parse_run(words).ok());
  words.push_back("--disk=socket=/d");
  EXPECT_THAT(error_of(parse_run(words)), HasSubstr("more than 8 devices"));
}

TEST(MinivmOptions, DrawASeedOfTheirOwn) {
  const auto one = parse_run({});
  const auto other = parse_run({"--workload=verify"});
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE(std::get<RunOptions>(*one).workload.seed,
            std::get<RunOptions>(*other).workload.seed);
}

TEST(MinivmOptions, OfCtlBecomeARequest) {
  const auto request_of = [](std::vector<std::string> words) {
    words.insert(words.begin(), {"ctl", "/c"});
    const auto parsed = parse(std::move(words));
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (!parsed.ok()) return Request();
    EXPECT_EQ(std::get<CtlOptions>(*parsed).socket, "/c");
    return std::get<CtlOptions>(*parsed).request;
  };
  EXPECT_EQ(request_of({"status"}).verb, Verb::kStatus);
  EXPECT_FALSE(request_of({"pause"}).devices);
  EXPECT_TRUE(request_of({"pause", "--devices"}).devices);
  EXPECT_EQ(request_of({"add-memory", "2M"}).size, uint64_t{2} << 20);
  EXPECT_EQ(request_of({"remove-memory", "3"}).id, 3u);
  const Request mask = request_of({"mask", "disk0", "1", "--json"});
  EXPECT_EQ(mask.verb, Verb::kMask);
  EXPECT_EQ(mask.device, "disk0");
  EXPECT_EQ(mask.queue, 1u);
}

TEST(MinivmOptions, OfAMoveBecomeARequest) {
  const auto parsed =
      parse({"ctl", "--bandwidth", "2M", "/c", "migrate", "--downtime=50",
             "tcp:[::1]:7", "--no-drain", "--compare", "--progress", "--json"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const CtlOptions& ctl = std::get<CtlOptions>(*parsed);
  EXPECT_TRUE(ctl.progress && ctl.json);
  EXPECT_EQ(ctl.request.verb, Verb::kMigrate);
  EXPECT_EQ(ctl.request.to, "tcp:[::1]:7");
  EXPECT_EQ(ctl.request.bandwidth, uint64_t{2} << 20);
  EXPECT_EQ(ctl.request.downtime_ms, 50u);
  EXPECT_TRUE(ctl.request.no_drain && ctl.request.compare);
  const auto plain = parse({"ctl", "/c", "save", "file"});
  ASSERT_TRUE(plain.ok()) << plain.status();
  const Request& save = std::get<CtlOptions>(*plain).request;
  EXPECT_EQ(save.verb, Verb::kSave);
  EXPECT_EQ(save.to, "file");
  EXPECT_EQ(save.bandwidth, 0u);
  EXPECT_FALSE(save.no_drain || save.compare);
}

TEST(MinivmOptions, OfAMoveAreChecked) {
  EXPECT_THAT(error_of(parse({"ctl", "/c", "migrate"})),
              HasSubstr("tcp:HOST:PORT or unix:PATH is expected"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "migrate", "host:7"})),
              HasSubstr("tcp:HOST:PORT or unix:PATH is expected"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "save"})), HasSubstr("FILE is"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "status", "--compare"})),
              HasSubstr("--compare needs migrate or save"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "save", "f", "--downtime=0"})),
              HasSubstr("--downtime: "));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "save", "f", "--bandwidth"})),
              HasSubstr("a value is missing after --bandwidth"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "save", "f", "--compare=1"})),
              HasSubstr("--compare has no value"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "pause", "--no-drain"})),
              HasSubstr("--no-drain needs --devices"));
}

TEST(MinivmOptions, OfAGuestThatComesAreChecked) {
  const auto parsed = parse_run({"--incoming=tcp:127.0.0.1:0"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(std::get<RunOptions>(*parsed).incoming->host, "127.0.0.1");
  const auto restored = parse_run({"--restore=/f"});
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(std::get<RunOptions>(*restored).restore, "/f");
  EXPECT_THAT(error_of(parse_run({"--incoming=7"})),
              HasSubstr("--incoming: tcp:HOST:PORT or unix:PATH"));
  EXPECT_THAT(error_of(parse_run({"--incoming=unix:/a", "--restore=/f"})),
              HasSubstr("not both"));
  EXPECT_THAT(error_of(parse_run({"--restore=/f", "--workload=verify"})),
              HasSubstr("brings its own"));
  const auto payload = parse({"run", "--memory=64M", "--guest=payload",
                              "--disk=socket=/d", "--restore=/f"});
  ASSERT_TRUE(payload.ok()) << payload.status();
  EXPECT_EQ(std::get<RunOptions>(*payload).guest, GuestKind::kPayload);
  EXPECT_THAT(
      error_of(parse({"run", "--memory=64M", "--guest=payload", "--payload=/p",
                      "--disk=socket=/d", "--restore=/f"})),
      HasSubstr("brings its own"));
}

TEST(MinivmOptions, OfCtlAreChecked) {
  EXPECT_THAT(error_of(parse({"ctl", "/c"})), HasSubstr("are missing"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "fly"})), HasSubstr("fly"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "mask", "disk0"})),
              HasSubstr("DEVICE and QUEUE are expected"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "quit", "now"})),
              HasSubstr("no argument is expected"));
  EXPECT_THAT(error_of(parse({"ctl", "/c", "resume", "--devices"})),
              HasSubstr("--devices needs pause"));
}

TEST(MinivmOptions, AskForHelpAnywhere) {
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"--help"},
        {"run", "--help"},
        {"ctl", "--help"}}) {
    const auto parsed = parse(words);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_THAT(std::get<HelpText>(*parsed).text, HasSubstr("minivm run"));
  }
}

}  // namespace
}  // namespace vhost::minivm
