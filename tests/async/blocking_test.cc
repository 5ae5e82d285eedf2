// SPDX-License-Identifier: Apache-2.0
//
// Nothing that a device does on the loop's thread waits for anybody, whatever
// its back-end does; and how long the longest of it takes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/async/blocking_seam.h"
#include "tests/async/vmm.h"
#include "tests/async/watched_loop.h"
#include "tests/host/turned_loop.h"
#include "tests/peers/process.h"

namespace vhost::async {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::LoopKind;
using ::testing::StartsWith;

// ---------------------------------------------------------------------------
// That waiting would be noticed
// ---------------------------------------------------------------------------

std::vector<std::string> calls_of(absl::FunctionRef<void()> work) {
  {
    const NoWaiting no_waiting;
    work();
  }
  return NoWaiting::take_calls();
}

class Seam : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_), 0);
  }
  void TearDown() override {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  int ends_[2] = {-1, -1};
  char byte_ = 0;
};

TEST_F(Seam, NoticesWaitsForDescriptors) {
  pollfd one = {ends_[0], POLLOUT, 0};
  const timespec some = {0, 1};
  EXPECT_THAT(calls_of([&] { ::poll(&one, 1, 1); }),
              ElementsAre(StartsWith("poll ")));
  EXPECT_THAT(calls_of([&] { ::ppoll(&one, 1, &some, nullptr); }),
              ElementsAre(StartsWith("ppoll ")));
  timeval time = {0, 1};
  EXPECT_THAT(calls_of([&] { ::select(0, nullptr, nullptr, nullptr, &time); }),
              ElementsAre(StartsWith("select ")));
  epoll_event event;
  const UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  EXPECT_THAT(calls_of([&] { ::epoll_wait(epoll.get(), &event, 1, 1); }),
              ElementsAre(StartsWith("epoll_wait ")));
  EXPECT_THAT(calls_of([&] { ::poll(&one, 1, 0); }), IsEmpty());
}

TEST_F(Seam, NoticesInputAndOutputThatMayWait) {
  EXPECT_THAT(calls_of([&] { EXPECT_EQ(::write(ends_[0], &byte_, 1), 1); }),
              ElementsAre(StartsWith("write ")));
  EXPECT_THAT(calls_of([&] { EXPECT_EQ(::read(ends_[1], &byte_, 1), 1); }),
              ElementsAre(StartsWith("read ")));
  EXPECT_THAT(calls_of([&] { EXPECT_EQ(::send(ends_[0], &byte_, 1, 0), 1); }),
              ElementsAre(StartsWith("send ")));
  EXPECT_THAT(calls_of([&] { EXPECT_EQ(::recv(ends_[1], &byte_, 1, 0), 1); }),
              ElementsAre(StartsWith("recv ")));
  EXPECT_THAT(calls_of([&] { ::recv(ends_[1], &byte_, 1, MSG_DONTWAIT); }),
              IsEmpty());
  ASSERT_EQ(::fcntl(ends_[0], F_SETFL, O_NONBLOCK), 0);
  EXPECT_THAT(calls_of([&] { EXPECT_EQ(::write(ends_[0], &byte_, 1), 1); }),
              IsEmpty());
}

TEST_F(Seam, NoticesSleepAndLocksOfFiles) {
  EXPECT_THAT(calls_of([] {
                std::this_thread::sleep_for(std::chrono::nanoseconds(1));
              }),
              ElementsAre(::testing::HasSubstr("nanosleep ")));
  EXPECT_THAT(calls_of([] { ::usleep(1); }),
              ElementsAre(StartsWith("usleep ")));
  struct flock lock = {};
  EXPECT_THAT(calls_of([&] { ::fcntl(ends_[0], F_SETLKW, &lock); }),
              ElementsAre(StartsWith("fcntl(F_SETLKW) ")));
  EXPECT_THAT(calls_of([&] { ::flock(ends_[0], LOCK_EX); }),
              ElementsAre(StartsWith("flock ")));
  EXPECT_THAT(calls_of([&] { ::fsync(ends_[0]); }),
              ElementsAre(StartsWith("fsync ")));
}

TEST_F(Seam, NoticesFilesOnDisk) {
  const testing::TempDir dir;
  const std::string path = dir.file("some");
  EXPECT_THAT(
      calls_of([&] {
        const UniqueFd made(::open(path.c_str(), O_CREAT | O_RDWR, 0600));
        EXPECT_TRUE(made.valid());
      }),
      ElementsAre(StartsWith("open")));
  EXPECT_THAT(calls_of([&] {
                const UniqueFd again(::openat(AT_FDCWD, path.c_str(), O_RDWR));
                EXPECT_TRUE(again.valid());
              }),
              ElementsAre(StartsWith("openat")));
  const UniqueFd disk(::open(path.c_str(), O_RDWR));
  const UniqueFd memory(::memfd_create("some", MFD_CLOEXEC));
  for (const FdRef fd : {FdRef(disk), FdRef(memory)}) {
    const std::vector<std::string> calls = calls_of([&] {
      EXPECT_EQ(::pwrite(fd.get(), &byte_, 1, 0), 1);
      EXPECT_EQ(::pread(fd.get(), &byte_, 1, 0), 1);
      ::fallocate(fd.get(), 0, 0, 1);
    });
    if (fd.get() == memory.get()) {
      EXPECT_THAT(calls, IsEmpty());
    } else {
      EXPECT_THAT(calls, ElementsAre(StartsWith("pwrite"), StartsWith("pread"),
                                     StartsWith("fallocate")));
    }
  }
}

TEST_F(Seam, NoticesWaitsForThreads) {
  absl::Notification never;
  EXPECT_THAT(calls_of([&] {
                never.WaitForNotificationWithTimeout(absl::Milliseconds(1));
              }),
              ::testing::Contains(StartsWith("futex ")));
  absl::Mutex mutex;
  absl::CondVar news;
  EXPECT_THAT(calls_of([&] {
                const absl::MutexLock lock(&mutex);
                news.WaitWithTimeout(&mutex, absl::Milliseconds(1));
              }),
              ::testing::Contains(StartsWith("futex ")));
  std::thread thread([] {});
  EXPECT_THAT(calls_of([&] { thread.join(); }),
              ElementsAre(StartsWith("pthread_join ")));
  std::mutex other;
  std::condition_variable condition;
  EXPECT_THAT(calls_of([&] {
                std::unique_lock lock(other);
                condition.wait_for(lock, std::chrono::microseconds(1));
              }),
              ElementsAre(StartsWith("pthread_cond_")));
}

TEST_F(Seam, ToleratesLocksThatAnotherThreadHolds) {
  absl::Mutex mutex;
  absl::Notification held;
  std::thread holder([&] {
    const absl::MutexLock lock(&mutex);
    held.Notify();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  });
  held.WaitForNotification();
  EXPECT_THAT(calls_of([&] { const absl::MutexLock lock(&mutex); }), IsEmpty());
  holder.join();
}

// ---------------------------------------------------------------------------
// That nothing waits
// ---------------------------------------------------------------------------

// A device whose callbacks are watched, about to do something.
class WatchedScene {
 public:
  WatchedScene(LoopKind kind, FarKind far)
      : turned_(testing::make_turned_loop(kind)),
        loop_(turned_->loop()),
        far_(make_far_side(far)),
        vmm_(
            loop_, [this] { turned_->turn(wait_); }, *far_) {
    vmm_.as_vmm = [this](absl::FunctionRef<void()> work) {
      loop_.inside(work);
    };
  }
  ~WatchedScene() {
    vmm_.as_vmm([this] { vmm_.dev.reset(); });
    vmm_.settle();
    const std::vector<std::string> calls = NoWaiting::take_calls();
    EXPECT_THAT(calls, IsEmpty()) << absl::StrJoin(calls, "\n");
    EXPECT_GT(loop_.callbacks(), 0);
  }

  void prepare(const Operation& operation) {
    vmm_.bring_to(operation.from);
    operation.prepare(vmm_);
  }
  std::shared_ptr<const Outcome> begin(const Operation& operation) {
    return vmm_.begin(
        [&](Completion done) { operation.begin(vmm_, std::move(done)); });
  }
  // Nothing comes from the back-end any more, so time may pass.
  void freeze() {
    far_->freeze();
    wait_ = std::chrono::milliseconds(10);
  }
  Vmm& vmm() { return vmm_; }

  void report() const {
    const auto us =
        std::chrono::duration_cast<std::chrono::microseconds>(loop_.longest());
    ::testing::Test::RecordProperty("longest_callback_us",
                                    static_cast<int>(us.count()));
    std::printf("longest of %d callbacks: %d us of processor time\n",
                loop_.callbacks(), static_cast<int>(us.count()));
  }

 private:
  std::unique_ptr<testing::TurnedLoop> turned_;
  WatchedLoop loop_;
  std::unique_ptr<FarSide> far_;
  Duration wait_{0};
  Vmm vmm_;
};

using NothingWaits = ::testing::TestWithParam<std::tuple<LoopKind, Operation>>;

TEST_P(NothingWaits, InAnOperation) {
  const auto& [loop, operation] = GetParam();
  for (const Operation::Place& place : operation.places) {
    SCOPED_TRACE(name_of(place.kind));
    WatchedScene scene(loop, place.kind);
    scene.prepare(operation);
    const auto outcome = scene.begin(operation);
    EXPECT_TRUE(scene.vmm().rounds_until([&] { return outcome->over(); }));
    EXPECT_EQ(outcome->status.code(), place.code) << outcome->status;
    scene.report();
  }
}

std::string name_on_loop(
    const ::testing::TestParamInfo<std::tuple<LoopKind, Operation>>& one) {
  const auto& [loop, operation] = one.param;
  return absl::StrCat(name_of(loop), operation.name);
}

INSTANTIATE_TEST_SUITE_P(
    On, NothingWaits,
    ::testing::Combine(::testing::ValuesIn(testing::loop_kinds()),
                       ::testing::ValuesIn(operations())),
    name_on_loop);

// ---------------------------------------------------------------------------
// Whatever the back-end does
// ---------------------------------------------------------------------------

class NothingWaitsFor
    : public ::testing::TestWithParam<std::tuple<FarKind, Operation>> {
 protected:
  static FarKind far() { return std::get<0>(GetParam()); }
  static const Operation& operation() { return std::get<1>(GetParam()); }
};

TEST_P(NothingWaitsFor, ABackEndThatIsSilentAndReadsNothing) {
  WatchedScene scene(LoopKind::kManual, far());
  scene.prepare(operation());
  scene.freeze();
  const auto outcome = scene.begin(operation());
  EXPECT_TRUE(scene.vmm().rounds_until([&] { return outcome->over(); }));
  EXPECT_NE(outcome->status.code(), absl::StatusCode::kUnknown);
  if (operation().can_be_cancelled && far() != FarKind::kFlooded) {
    EXPECT_EQ(outcome->status.code(), absl::StatusCode::kDeadlineExceeded)
        << outcome->status;
  }
  scene.report();
}

TEST_P(NothingWaitsFor, ABackEndThatIsSilentWhenTheDeviceIsTakenAway) {
  for (const int way : {0, 1, 2}) {
    WatchedScene scene(LoopKind::kManual, far());
    scene.prepare(operation());
    scene.freeze();
    const auto outcome = scene.begin(operation());
    scene.vmm().round();
    Vmm& vmm = scene.vmm();
    vmm.as_vmm([&] {
      if (way == 0) vmm.dev->cancel();
      if (way == 1) vmm.dev->force_stop([](absl::Status) {});
      if (way == 2) vmm.dev.reset();
    });
    vmm.settle();
    scene.report();
  }
}

// The operations of a disk.
std::vector<Operation> of_disks() {
  std::vector<Operation> out;
  for (const Operation& one : operations()) {
    for (const Operation::Place& place : one.places) {
      if (place.kind == FarKind::kDisk && place.code == absl::StatusCode::kOk) {
        out.push_back(one);
      }
    }
  }
  return out;
}

std::string name_on_far_side(
    const ::testing::TestParamInfo<std::tuple<FarKind, Operation>>& one) {
  const auto& [far, operation] = one.param;
  return absl::StrCat(name_of(far), operation.name);
}

INSTANTIATE_TEST_SUITE_P(
    On, NothingWaitsFor,
    ::testing::Combine(::testing::Values(FarKind::kDisk, FarKind::kNarrow,
                                         FarKind::kFlooded, FarKind::kFrozen),
                       ::testing::ValuesIn(of_disks())),
    name_on_far_side);

class NothingWaitsInFlood : public ::testing::TestWithParam<Operation> {};

TEST_P(NothingWaitsInFlood, AndTheOperationCompletes) {
  WatchedScene scene(LoopKind::kManual, FarKind::kFlooded);
  scene.prepare(GetParam());
  const auto outcome = scene.begin(GetParam());
  EXPECT_TRUE(scene.vmm().rounds_until([&] { return outcome->over(); }));
  EXPECT_EQ(outcome->status, absl::OkStatus());
  scene.report();
}

INSTANTIATE_TEST_SUITE_P(On, NothingWaitsInFlood,
                         ::testing::ValuesIn(of_disks()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace vhost::async
