// SPDX-License-Identifier: Apache-2.0
// Addresses where no back-end is, or one that is busy; and a host that takes no
// more descriptors.
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "backends/user/socket_io.h"
#include "tests/badinput/footprint.h"
#include "tests/badinput/stage.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class Address : public ::testing::Test {
 protected:
  ~Address() override { EXPECT_EQ(Footprint::now(), before); }

  Stage::Outcome connect_to(const std::string& path) {
    Stage::Options options;
    options.path = path;
    Stage stage(std::move(options));
    const Stage::Outcome outcome = stage.init();
    EXPECT_THAT(std::string(outcome.status.message()),
                StartsWith("disk: init: "));
    EXPECT_EQ(stage.dev->state(), DeviceState::kCreated);
    EXPECT_EQ(stage.loop.timers(), 0u);
    EXPECT_EQ(stage.loop.watches(), 0u);
    return outcome;
  }
  void expect_refused_at_once(const std::string& path, absl::StatusCode code) {
    const Stage::Outcome outcome = connect_to(path);
    EXPECT_EQ(outcome.status.code(), code) << outcome.status;
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr(path));
    EXPECT_EQ(outcome.took, Duration(0));
  }
  UniqueFd listen_at(const std::string& path, int backlog) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    UniqueFd out(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::bind(out.get(), reinterpret_cast<const sockaddr*>(&address),
                     sizeof(address)),
              0);
    EXPECT_EQ(::listen(out.get(), backlog), 0);
    return out;
  }

  const Footprint before = Footprint::now();
  testing::TempDir dir;
};

TEST_F(Address, WithoutASocketIsUnavailable) {
  expect_refused_at_once(dir.file("nobody.sock"),
                         absl::StatusCode::kUnavailable);
}

TEST_F(Address, ThatIsTooLongIsInvalid) {
  expect_refused_at_once(dir.file(std::string(200, 'x')),
                         absl::StatusCode::kInvalidArgument);
}

TEST_F(Address, OfAnOrdinaryFileIsUnavailable) {
  std::ofstream(dir.file("file")) << "not a socket";
  expect_refused_at_once(dir.file("file"), absl::StatusCode::kUnavailable);
}

TEST_F(Address, OfAFolderIsUnavailable) {
  ASSERT_EQ(::mkdir(dir.file("folder").c_str(), 0700), 0);
  expect_refused_at_once(dir.file("folder"), absl::StatusCode::kUnavailable);
  ::rmdir(dir.file("folder").c_str());
}

// A back-end that serves somebody else leaves us in its backlog: connected, but
// nobody is there.
TEST_F(Address, OfABusyBackEndIsGivenUpWhenAReplyIsDue) {
  const UniqueFd listener = listen_at(dir.file("busy.sock"), 4);

  const Stage::Outcome outcome = connect_to(dir.file("busy.sock"));

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("GET_FEATURES"));
  EXPECT_LE(outcome.took, kReplyTimeout + std::chrono::milliseconds(10));
}

TEST_F(Address, WithAFullBacklogIsTriedUntilTheDeadline) {
  const std::string path = dir.file("full.sock");
  const UniqueFd listener = listen_at(path, 0);
  std::vector<UniqueFd> others;
  for (int i = 0; i < 16; ++i) {
    auto other = user::connect_to(path);
    ASSERT_TRUE(other.ok());
    if (!other->has_value()) break;
    others.push_back(**std::move(other));
  }
  ASSERT_LT(others.size(), 16u);

  const Stage::Outcome outcome = connect_to(path);

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(outcome.took, std::chrono::seconds(1));
  EXPECT_LE(outcome.took, std::chrono::milliseconds(1010));
}

// The kernel limits how many descriptors a user may have on their way through
// sockets (ETOOMANYREFS).
class DescriptorsInFlight {
 public:
  DescriptorsInFlight() {
    auto pair = user::make_pair();
    if (!pair.ok()) return;
    in_ = std::move(pair->first);
    out_ = std::move(pair->second);
  }
  // As many as go; whether there came a limit.
  bool fill() {
    const int one = in_.get();
    const std::byte byte{1};
    for (int i = 0; i < 100'000; ++i) {
      const user::Sent sent =
          user::send_some(in_, std::span(&byte, 1), std::span(&one, 1));
      if (sent.outcome == user::SendOutcome::kNoFds) return true;
      if (sent.outcome != user::SendOutcome::kSent) return false;
    }
    return false;
  }
  void drain() {
    std::byte byte{};
    while (user::receive_some(out_, std::span(&byte, 1)).outcome ==
           user::ReceiveOutcome::kReceived) {
    }
  }

 private:
  UniqueFd in_;
  UniqueFd out_;
};

// 0 if a start waits while no descriptor can be sent, and goes on when it can;
// else the line where it went wrong.
int start_without_descriptors() {
  const rlimit few = {128, 128};
  if (::setrlimit(RLIMIT_NOFILE, &few) != 0) return __LINE__;
  // A back-end cannot send any either: it must not have to.
  Stage::Options options;
  options.device.track_inflight = false;
  Stage stage(std::move(options));
  if (!stage.init().status.ok()) return __LINE__;
  // Root is not limited.  Nobody is; whoever else the test runs as is, too.
  if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) {
    return __LINE__;
  }
  DescriptorsInFlight in_flight;
  if (!in_flight.fill()) return __LINE__;
  const auto started =
      stage.begin([&](Completion done) { stage.dev->start(std::move(done)); });
  stage.pass(kReplyTimeout / 2);
  if (started->calls != 0) return __LINE__;
  if (stage.dev->counters().stalls == 0) return __LINE__;
  in_flight.drain();
  stage.finish(*started);
  if (!started->status.ok()) return __LINE__;
  if (stage.dev->state() != DeviceState::kRunning) return __LINE__;
  return ::testing::Test::HasFailure() ? __LINE__ : 0;
}

TEST(TooManyDescriptorsInFlight, DelayAStartAndDoNotFailIt) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(30);
    ::_exit(start_without_descriptors() % 256);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the line where it went wrong";
}

}  // namespace
}  // namespace vhost::badinput
