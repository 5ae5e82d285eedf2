// SPDX-License-Identifier: Apache-2.0
// What an I/O of a guest costs the VMM's own thread: nothing.
#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <memory>

#include "tests/minivm/kvm/syscall_count.h"
#include "tests/minivm/machine/machine_rig.h"

namespace vhost::minivm {
namespace {

using testing::SyscallCount;

uint32_t threads_of_this_process() {
  DIR* const folder = ::opendir("/proc/self/task");
  if (folder == nullptr) return 0;
  uint32_t count = 0;
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') ++count;
  }
  ::closedir(folder);
  return count;
}

TEST(SyscallCount, SeesEachCall) {
  auto made = SyscallCount::start();
  ASSERT_TRUE(made.ok()) << made.status();
  const uint64_t before = (*made)->count();
  EXPECT_EQ((*made)->count(), before);

  static_cast<void>(::getppid());
  EXPECT_EQ((*made)->count(), before + 1);
  static_cast<void>(::getppid());
  static_cast<void>(::getppid());

  EXPECT_EQ((*made)->count(), before + 3);
}

class Syscalls : public MachineRig {
 protected:
  static constexpr uint64_t kInterrupts = 200;

  struct Window {
    uint64_t calls = 0;
    uint64_t requests = 0;
    uint64_t interrupts = 0;
    Duration time{0};
  };

  void start_with_disk(bool irqfd) {
    ASSERT_NO_FATAL_FAILURE(make_machine());
    DiskOptions options;
    options.irqfd = irqfd;
    add_disk(options);
    Workload workload;
    workload.depth = 4;
    ASSERT_NO_FATAL_FAILURE(make_guest(workload));
    ASSERT_NO_FATAL_FAILURE(start());
    ASSERT_TRUE(requests_grow_by(20)) << guest_->report().failure;
    auto made = SyscallCount::start();
    ASSERT_TRUE(made.ok()) << made.status();
    counter = *std::move(made);
  }

  // What the loop's thread does until the guest took kInterrupts, or until
  // `limit`.
  Window watch(MonotonicTime limit) {
    const WorkloadReport begin = guest_->report();
    const uint64_t calls = counter->count();
    const MonotonicTime start = loop_->now();
    Window out;
    while (out.interrupts < kInterrupts && loop_->now() < limit) {
      EXPECT_TRUE(loop_->run_once(limit - loop_->now()).ok());
      const WorkloadReport now = guest_->report();
      out.requests = now.reads + now.writes - begin.reads - begin.writes;
      out.interrupts = now.interrupts - begin.interrupts;
    }
    out.calls = counter->count() - calls;
    out.time = loop_->now() - start;
    return out;
  }
  Window watch_busy() { return watch(loop_->now() + std::chrono::minutes(1)); }
  // As long while the guest submits nothing.
  Window watch_idle(Duration time) {
    EXPECT_TRUE(finish([this](Completion done) {
                  guest_->hold(std::move(done));
                }).ok());
    const Window out = watch(loop_->now() + time);
    guest_->release();
    EXPECT_EQ(out.requests, 0u);
    return out;
  }

  // A guest of one vCPU, its back-end and this thread.
  static constexpr uint32_t kThreads = 3;
  // What a window that is cut off elsewhere may have more: a turn of the loop
  // for the watchdog at either end.
  static constexpr uint64_t kTurns = 40;
  std::unique_ptr<SyscallCount> counter;
};

TEST_F(Syscalls, OfTheLoopAreNoneForAnIo) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(true));
  ASSERT_EQ(threads_of_this_process(), kThreads);

  const Window busy = watch_busy();
  const Window idle = watch_idle(busy.time);

  EXPECT_GE(busy.interrupts, kInterrupts);
  EXPECT_LE(busy.calls, idle.calls + kTurns);
  std::cout << busy.requests << " requests, " << busy.interrupts
            << " interrupts: " << busy.calls << " system calls; " << idle.calls
            << " without\n";
}

// Where the loop passes calls on it wakes up for each: seen in the same way.
TEST_F(Syscalls, OfTheLoopAreSeenWithoutIrqfd) {
  ASSERT_NO_FATAL_FAILURE(start_with_disk(false));

  const Window busy = watch_busy();

  EXPECT_GE(busy.interrupts, kInterrupts);
  EXPECT_GE(busy.calls, 2 * busy.interrupts);
  std::cout << busy.requests << " requests, " << busy.interrupts
            << " interrupts: " << busy.calls << " system calls\n";
}

}  // namespace
}  // namespace vhost::minivm
