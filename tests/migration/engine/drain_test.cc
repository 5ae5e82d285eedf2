// SPDX-License-Identifier: Apache-2.0
// Requests that a stop might lose: between the guest and the devices.
#include <algorithm>

#include "tests/migration/engine/pair.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

class MigrationDrain : public MigrationPair {
 protected:
  static constexpr uint16_t kRequests = 5;

  VirtqueueConfig ring(size_t toy) const {
    return source_vmm.toys[toy]->guest.queue(QueueIndex{0});
  }
  void submit(size_t toy) {
    const VirtqueueConfig queue = ring(toy);
    ASSERT_TRUE(testing::set_avail_index(source_vmm.memory, queue, kRequests));
    source_vmm.writes.add(queue.avail_gpa, 4);
  }
  void finish(size_t toy) { source_vmm.toys[toy]->serve(kRequests); }
  bool untouched(size_t toy) const {
    const auto& journal = *source_vmm.toys[toy]->journal;
    return std::find(journal.begin(), journal.end(), "Quiesce q0") ==
           journal.end();
  }
  // The guest is halted, and its requests are not done.
  void start_and_wait() {
    start();
    ASSERT_TRUE(run_until([this] { return !source_vmm.running; }));
    const MonotonicTime end = loop.now() + std::chrono::milliseconds(40);
    ASSERT_TRUE(run_until([&] { return loop.now() >= end; }));
    EXPECT_EQ(source->progress().phase, MigrationPhase::kPausing);
    EXPECT_TRUE(untouched(0) && untouched(1));
  }
  void expect_untouched() {
    expect_here();
    expect_devices_run(source_vmm);
    EXPECT_TRUE(untouched(0) && untouched(1));
  }
};

TEST_F(MigrationDrain, RequestsAreOverBeforeADeviceIsStopped) {
  submit(0);
  submit(1);
  ASSERT_NO_FATAL_FAILURE(start_and_wait());
  finish(0);
  ASSERT_TRUE(run_until([end = loop.now() + std::chrono::milliseconds(10),
                         this] { return loop.now() >= end; }));
  EXPECT_TRUE(untouched(0) && untouched(1));
  finish(1);
  ASSERT_TRUE(run());
  expect_moved();
}

TEST_F(MigrationDrain, WhatTakesTooLongLeavesAllAsItWas) {
  source_options.timeouts.pause = std::chrono::milliseconds(200);
  submit(1);
  migrate();
  expect_untouched();
  EXPECT_THAT(std::string(source_status->message()),
              HasSubstr("disk1: vq 0: 5 requests not drained"));
  // They are done some time, and the guest can move.
  finish(1);
  destination.reset();
  migrate();
  expect_moved();
}

TEST_F(MigrationDrain, ACancelDoesNotWait) {
  submit(0);
  ASSERT_NO_FATAL_FAILURE(start_and_wait());
  const MonotonicTime cancelled = loop.now();
  ASSERT_TRUE(source->cancel().ok());
  ASSERT_TRUE(run());
  expect_untouched();
  EXPECT_EQ(source_status->code(), absl::StatusCode::kCancelled);
  EXPECT_LT(loop.now() - cancelled, std::chrono::milliseconds(100));
}

TEST_F(MigrationDrain, AConnectionThatIsCutDoesNotWait) {
  submit(0);
  ASSERT_NO_FATAL_FAILURE(start_and_wait());
  const MonotonicTime cut = loop.now();
  wire->hang_up();
  ASSERT_TRUE(run());
  expect_untouched();
  EXPECT_LT(loop.now() - cut, std::chrono::milliseconds(100));
}

TEST_F(MigrationDrain, OneThatIsDroppedTouchesNoDevice) {
  submit(0);
  ASSERT_NO_FATAL_FAILURE(start_and_wait());
  source.reset();
  settle();
  EXPECT_TRUE(untouched(0) && untouched(1));
  EXPECT_FALSE(destination_vmm.running);
  EXPECT_EQ(loop.timers(), 0u);
}

TEST_F(MigrationDrain, ABackEndThatDiesMeanwhileIsNotWaitedFor) {
  submit(0);
  ASSERT_NO_FATAL_FAILURE(start_and_wait());
  const MonotonicTime killed = loop.now();
  source_vmm.toys[0]->ops->lose(absl::UnavailableError("killed"));
  ASSERT_TRUE(run());
  expect_here();
  EXPECT_LT(loop.now() - killed, std::chrono::milliseconds(100));
}

}  // namespace
}  // namespace vhost
