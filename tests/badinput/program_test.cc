// SPDX-License-Identifier: Apache-2.0
// vhostctl, run as a program, against each kind of bad back-end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "backends/user/socket_io.h"
#include "tests/badinput/program.h"

namespace vhost::badinput {
namespace {

using testing::Finished;
using testing::ModelFault;

constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kSetVringAddr = 9;
constexpr uint32_t kGetProtocolFeatures = 15;
constexpr uint32_t kGetQueueNum = 17;
constexpr uint32_t kSetVringEnable = 18;
constexpr uint32_t kGetConfig = 24;
constexpr uint32_t kGetMaxMemSlots = 36;
constexpr uint32_t kGetStatus = 40;

// Which message of a well-behaved run is the first with this id.
size_t number_of(uint32_t request) {
  static const auto* const kRequests = [] {
    MeddledDisk disk(Mischief::kNone);
    const Finished run = vhostctl_read(disk.path());
    EXPECT_EQ(run.exit, 0) << run.err;
    return new std::vector<Meddler::Request>(disk.finish());
  }();
  const auto found = std::find_if(
      kRequests->begin(), kRequests->end(),
      [request](const Meddler::Request& one) { return one.id == request; });
  EXPECT_NE(found, kRequests->end());
  return static_cast<size_t>(found - kRequests->begin());
}

struct BadBackEnd {
  const char* name;
  Mischief mischief;
  const char* code;
};

class Vhostctl : public ::testing::TestWithParam<BadBackEnd> {};

TEST_P(Vhostctl, EndsInTimeAndSaysWhy) {
  for (const uint32_t request :
       {kGetFeatures, kGetConfig, kSetVringAddr, kSetVringEnable}) {
    SCOPED_TRACE(absl::StrCat("request ", request));
    // A back-end can refuse GET_FEATURES only by hanging up.
    const bool no_words =
        GetParam().mischief == Mischief::kRefused && request == kGetFeatures;
    MeddledDisk disk(GetParam().mischief, number_of(request));
    const Finished run = vhostctl_read(disk.path());
    expect_program_error(run, no_words ? "UNAVAILABLE" : GetParam().code);
  }
}

std::string bad_name(const ::testing::TestParamInfo<BadBackEnd>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    AgainstABackEnd, Vhostctl,
    ::testing::Values(
        BadBackEnd{"Silent", Mischief::kSilent, "DEADLINE_EXCEEDED"},
        BadBackEnd{"SilentBehindAHeader", Mischief::kHeaderSilent,
                   "DEADLINE_EXCEEDED"},
        BadBackEnd{"Dead", Mischief::kDead, "UNAVAILABLE"},
        BadBackEnd{"DeadInAHeader", Mischief::kHalfHeaderDead, "UNAVAILABLE"},
        BadBackEnd{"DeadBehindAHeader", Mischief::kHeaderDead, "UNAVAILABLE"},
        BadBackEnd{"DeadBehindAReply", Mischief::kAckedDead, "UNAVAILABLE"},
        BadBackEnd{"Refusing", Mischief::kRefused, "ABORTED"},
        BadBackEnd{"WithWrongIds", Mischief::kWrongId, "DATA_LOSS"},
        BadBackEnd{"WithoutTheReplyBit", Mischief::kNoReplyBit, "DATA_LOSS"},
        BadBackEnd{"ThatAsksForReplies", Mischief::kStrayFlag, "DATA_LOSS"},
        BadBackEnd{"WithAWrongVersion", Mischief::kWrongVersion, "DATA_LOSS"},
        BadBackEnd{"TooShort", Mischief::kShorter, "DATA_LOSS"},
        BadBackEnd{"TooLong", Mischief::kLonger, "DATA_LOSS"},
        BadBackEnd{"Huge", Mischief::kHuge, "DATA_LOSS"},
        BadBackEnd{"WithAStrayDescriptor", Mischief::kStrayFd, "DATA_LOSS"},
        BadBackEnd{"WithTooManyDescriptors", Mischief::kTooManyFds,
                   "DATA_LOSS"},
        BadBackEnd{"ThatAnswersUnasked", Mischief::kAfterStranger,
                   "DATA_LOSS"}),
    bad_name);

// Noticed by what is asked next, or between two steps of the program.
TEST(VhostctlAgainstABackEnd, ThatAnswersTwiceEndsInTimeAndSaysWhy) {
  {
    MeddledDisk disk(Mischief::kTwice, number_of(kGetFeatures));
    expect_program_error(vhostctl_read(disk.path()), "DATA_LOSS",
                         "GET_FEATURES");
  }
  for (const uint32_t request : {kGetConfig, kSetVringEnable}) {
    MeddledDisk disk(Mischief::kTwice, number_of(request));
    const Finished run = vhostctl_read(disk.path());
    EXPECT_EQ(run.exit, 1);
    EXPECT_THAT(run.err, ::testing::HasSubstr("reply to "));
  }
}

TEST(VhostctlAgainstABackEnd, ThatAnswersInPiecesReads) {
  for (const uint32_t request : {kGetFeatures, kGetConfig, kSetVringEnable}) {
    MeddledDisk disk(Mischief::kByteByByte, number_of(request));
    const Finished run = vhostctl_read(disk.path());
    EXPECT_EQ(run.exit, 0) << run.err;
  }
}

// ---------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------

Bytes u64(uint64_t value) {
  Bytes out(sizeof(value));
  std::memcpy(out.data(), &value, sizeof(value));
  return out;
}

// A reply to GET_CONFIG that says it is of `offset`.
Bytes config_at(uint32_t offset) {
  const uint32_t head[] = {offset, 60, 0};
  Bytes out(sizeof(head) + 60);
  std::memcpy(out.data(), head, sizeof(head));
  return out;
}

struct BadValue {
  const char* name;
  uint32_t request;
  Bytes payload;
  const char* code;
  const char* what;
};

class VhostctlTold : public ::testing::TestWithParam<BadValue> {};

TEST_P(VhostctlTold, EndsInTimeAndSaysWhy) {
  MeddledDisk disk(GetParam().request, GetParam().payload);
  expect_program_error(vhostctl_read(disk.path()), GetParam().code,
                       GetParam().what);
}

INSTANTIATE_TEST_SUITE_P(
    By, VhostctlTold,
    ::testing::Values(BadValue{"NoFeatures", kGetFeatures, u64(0),
                               "UNIMPLEMENTED", "CONFIG"},
                      BadValue{"NoProtocolFeatures", kGetProtocolFeatures,
                               u64(0), "UNIMPLEMENTED", "CONFIG"},
                      BadValue{"NoQueues", kGetQueueNum, u64(0), "DATA_LOSS",
                               "GET_QUEUE_NUM"},
                      BadValue{"NoMemorySlots", kGetMaxMemSlots, u64(0),
                               "RESOURCE_EXHAUSTED", "slots"},
                      BadValue{"ConfigurationOfAnotherPlace", kGetConfig,
                               config_at(4), "DATA_LOSS", "GET_CONFIG"},
                      BadValue{"AStatusThatDoesNotStick", kGetStatus, u64(3),
                               "ABORTED", "GET_STATUS"}),
    [](const ::testing::TestParamInfo<BadValue>& info) {
      return std::string(info.param.name);
    });

// ---------------------------------------------------------------------------
// Requests of the disk
// ---------------------------------------------------------------------------

struct RingLie {
  const char* name;
  ModelFault fault;
  const char* what;
};

class VhostctlLiedTo : public ::testing::TestWithParam<RingLie> {};

TEST_P(VhostctlLiedTo, EndsInTimeAndNamesQueueAndCause) {
  testing::ModelOptions options;
  options.fault = GetParam().fault;
  MeddledDisk disk(Mischief::kNone, Meddler::kNever, std::move(options));
  expect_program_error(vhostctl_read(disk.path()), "DATA_LOSS",
                       absl::StrCat("vq 0: ", GetParam().what));
}

INSTANTIATE_TEST_SUITE_P(
    About, VhostctlLiedTo,
    ::testing::Values(
        RingLie{"TheUsedIndex", ModelFault::kUsedIndex,
                "device moved the used index by "},
        RingLie{"ADescriptor", ModelFault::kUsedId,
                "device completed descriptor "},
        RingLie{"ARequestThatIsNotInFlight", ModelFault::kUsedTwice,
                "device completed descriptor "},
        RingLie{"TheLength", ModelFault::kLength, "device wrote 514 bytes"}),
    [](const ::testing::TestParamInfo<RingLie>& info) {
      return std::string(info.param.name);
    });

TEST(VhostctlAgainstABackEnd, WhoseRequestsNeverEndIsGivenUp) {
  testing::ModelOptions options;
  options.latency = std::chrono::hours(1);
  MeddledDisk disk(Mischief::kNone, Meddler::kNever, std::move(options));
  expect_program_error(vhostctl_read(disk.path()), "DEADLINE_EXCEEDED");
}

// The program that is shipped, listening at `socket`.
absl::StatusOr<std::unique_ptr<testing::Process>> start_model_blk(
    const std::string& socket, const std::string& option) {
  auto model = testing::Process::start(
      {"vhost-model-blk", "--socket-path=" + socket, "--size=1048576", option},
      {});
  const auto limit =
      std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (model.ok() && std::chrono::steady_clock::now() < limit) {
    const auto connected = user::connect_to(socket);
    if (connected.ok()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return model;
}

TEST(VhostctlAgainstModelBlk, WithAFaultNamesQueueAndCause) {
  const testing::TempDir dir;
  const std::string socket = dir.file("disk.sock");
  const auto model = start_model_blk(socket, "--fault=used-id@0");
  ASSERT_TRUE(model.ok()) << model.status();
  expect_program_error(vhostctl_read(socket), "DATA_LOSS",
                       "vq 0: device completed descriptor ");
}

TEST(VhostctlAgainstModelBlk, ThatIsStoppedGivesUp) {
  const testing::TempDir dir;
  const std::string socket = dir.file("disk.sock");
  const auto model = start_model_blk(socket, "--queues=1");
  ASSERT_TRUE(model.ok()) << model.status();
  (*model)->freeze();
  ASSERT_TRUE((*model)->frozen());
  expect_program_error(vhostctl_read(socket), "DEADLINE_EXCEEDED",
                       "GET_FEATURES");
  (*model)->signal(SIGCONT);
  const Finished run = vhostctl_read(socket);
  EXPECT_EQ(run.exit, 0) << run.err;
}

TEST(VhostctlAtAnAddress, WithoutABackEndSaysSo) {
  const testing::TempDir dir;
  std::ofstream(dir.file("file")) << "not a socket";
  expect_program_error(vhostctl_read(dir.file("nobody.sock")), "UNAVAILABLE");
  expect_program_error(vhostctl_read(dir.file("file")), "UNAVAILABLE");
  expect_program_error(vhostctl_read(dir.file(std::string(200, 'x'))),
                       "INVALID_ARGUMENT");
}

// A socket where somebody listens and never accepts.
class NeverAccepted {
 public:
  explicit NeverAccepted(int backlog) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    listener_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address),
                     sizeof(address)),
              0);
    EXPECT_EQ(::listen(listener_.get(), backlog), 0);
    // One who waits in front of us.
    first_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(first_.get(), reinterpret_cast<sockaddr*>(&address),
                        sizeof(address)),
              0);
  }
  std::string path() const { return dir_.file("busy.sock"); }

 private:
  testing::TempDir dir_;
  UniqueFd listener_;
  UniqueFd first_;
};

TEST(VhostctlAtAnAddress, WhereSomebodyElseIsServedGivesUp) {
  const NeverAccepted busy(4);
  expect_program_error(vhostctl_read(busy.path()), "DEADLINE_EXCEEDED",
                       "GET_FEATURES");
}

TEST(VhostctlAtAnAddress, WithAFullBacklogGivesUp) {
  const NeverAccepted full(0);
  expect_program_error(vhostctl_read(full.path()), "DEADLINE_EXCEEDED");
}

}  // namespace
}  // namespace vhost::badinput
