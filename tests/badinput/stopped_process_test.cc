// SPDX-License-Identifier: Apache-2.0
// A back-end process that is stopped (SIGSTOP) at every message of all that a
// VMM does: it is there, its sockets are open, and nothing comes.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/badinput/every_message.h"
#include "tests/badinput/footprint.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;

// A model in a process of its own, which stops itself when it has message
// `stop_at` in its hands.
class StoppingBackEnd {
 public:
  StoppingBackEnd(const std::string& path, uint64_t stop_at) {
    pid_ = ::fork();
    if (pid_ == 0) ::_exit(serve(path, stop_at));
    // It listens when its socket is there.
    for (int i = 0; i < 10'000 && ::access(path.c_str(), F_OK) != 0; ++i) {
      ::usleep(1000);
    }
  }
  ~StoppingBackEnd() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  StoppingBackEnd(const StoppingBackEnd&) = delete;
  StoppingBackEnd& operator=(const StoppingBackEnd&) = delete;

  bool stopped() {
    siginfo_t info = {};
    const int flags = WSTOPPED | WNOHANG | WNOWAIT;
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, flags) == 0 &&
           info.si_pid == pid_;
  }

 private:
  static int serve(const std::string& path, uint64_t stop_at) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto disk = testing::ModelBlk::on_memory(1 << 20);
    if (!disk.ok()) return 1;
    testing::ModelOptions options;
    options.on_message = [stop_at](const testing::ModelMessage& message) {
      if (message.number == stop_at) ::raise(SIGSTOP);
      return testing::ModelVerdict();
    };
    testing::ModelBackend model(disk->get(), std::move(options));
    // Under another name first: whoever sees the path finds it listening.
    const std::string hidden = path + "~";
    if (!model.listen_on(hidden).ok()) return 2;
    if (::rename(hidden.c_str(), path.c_str()) != 0) return 3;
    while (model.step(std::chrono::seconds(60)).ok()) {
    }
    return 4;
  }

  pid_t pid_ = -1;
};

using StoppedProcess = EveryMessage;

TEST_P(StoppedProcess, IsGivenUpWhenAReplyIsDue) {
  const auto& requests = requests_of(action());
  for (size_t at = 0; at != requests.size(); ++at) {
    SCOPED_TRACE(requests[at].name());
    const auto began = std::chrono::steady_clock::now();
    const Footprint before = Footprint::now();
    {
      testing::TempDir dir;
      const std::string path = dir.file("stopping.sock");
      StoppingBackEnd backend(path, requests_before(action()) + at);
      Stage::Options options;
      options.path = path;
      options.stuck = [&backend] { return backend.stopped(); };
      Stage stage(std::move(options));
      action().prepare(stage);

      const Stage::Outcome outcome = stage.drive(
          [&](Completion done) { action().begin(stage, std::move(done)); });

      EXPECT_TRUE(backend.stopped());
      expect_lost(stage, outcome, absl::StatusCode::kDeadlineExceeded);
      if (requests[at].answered) {
        EXPECT_THAT(std::string(outcome.status.message()),
                    HasSubstr(requests[at].name()));
      }
      EXPECT_LE(outcome.took, kDrainTimeout + std::chrono::milliseconds(10));
    }
    EXPECT_EQ(Footprint::now(), before);
    EXPECT_LT(std::chrono::steady_clock::now() - began,
              std::chrono::seconds(30));
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Of, StoppedProcess, ::testing::ValuesIn(actions()),
                         action_name);

// The same on the clock of the wall, for callers that wait themselves.
TEST(StoppedProcessInRealTime, DoesNotHoldACallerLongerThanItSays) {
  testing::TempDir dir;
  const std::string path = dir.file("stopping.sock");
  StoppingBackEnd backend(path, 0);
  Stage::Options options;
  options.path = path;
  options.user.reply_timeout = std::chrono::seconds(60);
  Stage stage(std::move(options));
  const auto began = std::chrono::steady_clock::now();

  const absl::Status status =
      stage.dev->run([&](Completion done) { stage.dev->init(std::move(done)); },
                     std::chrono::milliseconds(100));

  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(took, std::chrono::milliseconds(100));
  EXPECT_LT(took, std::chrono::seconds(3));
}

}  // namespace
}  // namespace vhost::badinput
