// SPDX-License-Identifier: Apache-2.0
// vhostctl, run as a program, against each kind of bad back-end.
#include <algorithm>
#include <atomic>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/badinput/meddler.h"
#include "tests/peers/process.h"
#include "vhostdev/testing/model_blk.h"

namespace vhost::badinput {
namespace {

using testing::Finished;

constexpr Duration kTimeout = std::chrono::milliseconds(500);
// For a machine that does something else at the same time.
constexpr Duration kSlack = std::chrono::seconds(4);
constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kSetVringAddr = 9;
constexpr uint32_t kSetVringEnable = 18;
constexpr uint32_t kGetConfig = 24;

Finished vhostctl_at(const std::string& path) {
  return testing::run_program({"vhostctl", "blk", "read", "--socket", path,
                               "--timeout=0.5", "--length=512"},
                              {});
}

// Ends with 1, in time, and says why in one line.
void expect_error(const Finished& run, const std::string& code) {
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(absl::StartsWith(run.err, absl::StrCat("vhostctl: ", code, ": ")))
      << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  EXPECT_LT(run.took, kTimeout + kSlack);
}

// A meddler on a thread of its own, for programs that wait themselves.
class MeddledDisk {
 public:
  MeddledDisk(Mischief mischief, size_t at) {
    auto made = testing::ModelBlk::on_memory(1 << 20);
    EXPECT_TRUE(made.ok()) << made.status();
    disk_ = *std::move(made);
    meddler_.emplace(path(), disk_.get());
    meddler_->arm(mischief, at);
    thread_ = std::thread([this] {
      while (!stop_.load(std::memory_order_relaxed)) {
        if (!meddler_->step()) {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      }
    });
  }
  ~MeddledDisk() { finish(); }
  MeddledDisk(const MeddledDisk&) = delete;
  MeddledDisk& operator=(const MeddledDisk&) = delete;

  std::string path() const { return dir_.file("disk.sock"); }
  const std::vector<Meddler::Request>& finish() {
    stop_.store(true, std::memory_order_relaxed);
    if (thread_.joinable()) thread_.join();
    return meddler_->requests();
  }

 private:
  testing::TempDir dir_;
  std::unique_ptr<testing::ModelBlk> disk_;
  std::optional<Meddler> meddler_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// Which message of a well-behaved run is the first with this id.
size_t number_of(uint32_t request) {
  static const auto* const kRequests = [] {
    MeddledDisk disk(Mischief::kNone, Meddler::kNever);
    const Finished run = vhostctl_at(disk.path());
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
    const Finished run = vhostctl_at(disk.path());
    expect_error(run, no_words ? "UNAVAILABLE" : GetParam().code);
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
        BadBackEnd{"WithWrongFlags", Mischief::kNoReplyBit, "DATA_LOSS"},
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

TEST(VhostctlAtAnAddress, WithoutABackEndSaysSo) {
  const testing::TempDir dir;
  std::ofstream(dir.file("file")) << "not a socket";
  expect_error(vhostctl_at(dir.file("nobody.sock")), "UNAVAILABLE");
  expect_error(vhostctl_at(dir.file("file")), "UNAVAILABLE");
  expect_error(vhostctl_at(dir.file(std::string(200, 'x'))),
               "INVALID_ARGUMENT");
}

}  // namespace
}  // namespace vhost::badinput
