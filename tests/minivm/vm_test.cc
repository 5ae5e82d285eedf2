// SPDX-License-Identifier: Apache-2.0
//
// Vm without its program: two of them in one process, on one loop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/minivm/vm_fixture.h"
#include "tools/minivm/channel.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kSetVringNum = 8;  // Of vhost-user.

class MinivmVm : public VmFixture {};

TEST_F(MinivmVm, IsOneOfTwoInAProcess) {
  const Disk disk_a(dir_.file("a"));
  const Disk disk_b(dir_.file("b"));
  const std::unique_ptr<Vm> a = make(options(dir_.file("a")));
  const std::unique_ptr<Vm> b = make(options(dir_.file("b")));
  ASSERT_TRUE(a != nullptr && b != nullptr);
  int ended = 0;
  a->start([&] { ++ended; });
  b->start([&] { ++ended; });
  ASSERT_TRUE(turn_until(
      [&] { return a->report().writes > 100 && b->report().writes > 100; }));
  // One stands still, the other goes on.
  ASSERT_TRUE(ask(*a, {.verb = Verb::kPause, .device = {}}).ok());
  const uint64_t paused = a->report().writes;
  const uint64_t other = b->report().writes;
  ASSERT_TRUE(turn_until([&] { return b->report().writes > other + 100; }));
  EXPECT_EQ(a->report().writes, paused);

  a->finish();
  b->finish();
  ASSERT_TRUE(turn_until([&] { return ended == 2; }));
  a->close();
  b->close();
  EXPECT_EQ(a->report().total_faults(), 0u) << a->report().failure;
  EXPECT_EQ(b->report().total_faults(), 0u) << b->report().failure;
  EXPECT_EQ(a->report().state, "ended");
}

TEST_F(MinivmVm, SendsFramesFromOneNetToAnother) {
  Nets nets(dir_.file("near"), dir_.file("far"));
  const std::unique_ptr<Vm> vm = make(nets_options());
  ASSERT_NE(vm, nullptr);
  bool ended = false;
  vm->start([&] { ended = true; });
  ASSERT_TRUE(turn_until([&] { return vm->report().frames_received > 1000; }));
  ASSERT_TRUE(
      ask(*vm, {.verb = Verb::kPause, .devices = true, .device = {}}).ok());
  const uint64_t paused = vm->report().frames_received;
  ASSERT_TRUE(ask(*vm, {.verb = Verb::kResume, .device = {}}).ok());
  ASSERT_TRUE(
      turn_until([&] { return vm->report().frames_received > paused + 100; }));
  vm->finish();
  ASSERT_TRUE(turn_until([&] { return ended; }));
  vm->close();
  EXPECT_EQ(vm->report().total_faults(), 0u) << vm->report().failure;
  EXPECT_GE(nets.near().counters().from_guest, 500u);
}

// The back-end takes connections, and dies of the first message about a ring
// each time, once `dies` is set.
TEST_F(MinivmVm, ResumesThoughABackEndDiesAsItIsToldOfItsRings) {
  std::atomic<bool> dies = false;
  testing::ModelOptions options_of_disk;
  options_of_disk.on_message = [&dies](const testing::ModelMessage& message) {
    testing::ModelVerdict verdict;
    const bool about_rings = message.request == kSetVringNum;
    if (dies && about_rings)
      verdict.kind = testing::ModelVerdict::Kind::kHangUp;
    return verdict;
  };
  const Disk disk(dir_.file("a"), options_of_disk);
  const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
  ASSERT_NE(vm, nullptr);
  bool ended = false;
  vm->start([&] { ended = true; });
  ASSERT_TRUE(gets_on(*vm));
  ASSERT_TRUE(ask(*vm, Verb::kPause, /*devices=*/true).ok());
  dies = true;
  EXPECT_TRUE(ask(*vm, Verb::kResume).ok());
  dies = false;
  EXPECT_TRUE(gets_on(*vm));
  vm->finish();
  ASSERT_TRUE(turn_until([&] { return ended; }));
  vm->close();
  EXPECT_EQ(vm->report().total_faults(), 0u) << vm->report().failure;
}

TEST_F(MinivmVm, TakesTheGuestOfOneWhoCameBeforeItWasReady) {
  const Disk disk(dir_.file("a"));
  const Disk same_disk(dir_.file("b"));
  const std::unique_ptr<Vm> here = make(options(dir_.file("a")));
  ASSERT_NE(here, nullptr);
  bool moved_away = false;
  here->start([&] { moved_away = true; });
  ASSERT_TRUE(gets_on(*here));
  RunOptions incoming = options(dir_.file("b"));
  const std::string address = absl::StrCat("unix:", dir_.file("in"));
  incoming.incoming = *parse_channel(address);
  incoming.workload = {};
  const std::unique_ptr<Vm> there = make(incoming);
  ASSERT_NE(there, nullptr);
  std::optional<absl::Status> moved;
  here->handle({.verb = Verb::kMigrate, .device = {}, .to = address},
               [&](const absl::StatusOr<ctl::Json>& answer) {
                 moved = answer.status();
               });
  let_time_pass();
  there->start([] {});
  ASSERT_TRUE(turn_until([&] { return moved.has_value() && moved_away; }));
  EXPECT_EQ(*moved, absl::OkStatus());
}

TEST_F(MinivmVm, RefusesMemoryThatABackEndHasNoSlotFor) {
  testing::ModelOptions few;
  few.memory_slots = 4;
  const Disk disk(dir_.file("a"), few);
  const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
  ASSERT_NE(vm, nullptr);
  bool ended = false;
  vm->start([&] { ended = true; });
  // The first piece and the driver's own memory have two slots.
  const Request add = {.verb = Verb::kAddMemory, .size = 4096, .device = {}};
  ASSERT_TRUE(ask(*vm, add).ok());
  ASSERT_TRUE(ask(*vm, add).ok());
  const auto refused = ask(*vm, add);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("add memory: "));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("disk0"));
  // A piece that goes makes room.
  ASSERT_TRUE(
      ask(*vm, {.verb = Verb::kRemoveMemory, .id = 1, .device = {}}).ok());
  EXPECT_TRUE(ask(*vm, add).ok());
  const uint64_t before = vm->report().writes;
  EXPECT_TRUE(turn_until([&] { return vm->report().writes > before + 100; }));
  vm->finish();
  ASSERT_TRUE(turn_until([&] { return ended; }));
  vm->close();
  EXPECT_EQ(vm->report().total_faults(), 0u) << vm->report().failure;
}

TEST_F(MinivmVm, MayGoAtAnyTime) {
  const Disk disk(dir_.file("a"));
  make(options(dir_.file("a"))) = nullptr;
  {
    // Before the loop turned.
    const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
    vm->start([] { ADD_FAILURE(); });
  }
  {
    // With requests in flight.
    const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
    vm->start([] { ADD_FAILURE(); });
    ASSERT_TRUE(turn_until([&] { return vm->report().writes > 10; }));
  }
  {
    // In the middle of a pause, of which nobody is told any more.
    const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
    vm->start([] { ADD_FAILURE(); });
    ASSERT_TRUE(turn_until([&] { return vm->report().writes > 10; }));
    vm->handle({.verb = Verb::kPause, .devices = true, .device = {}},
               [](const absl::StatusOr<ctl::Json>&) { ADD_FAILURE(); });
  }
  {
    // While memory comes.
    const std::unique_ptr<Vm> vm = make(options(dir_.file("a")));
    vm->start([] { ADD_FAILURE(); });
    ASSERT_TRUE(turn_until([&] { return vm->report().writes > 10; }));
    vm->handle({.verb = Verb::kAddMemory, .size = 4096, .device = {}},
               [](const absl::StatusOr<ctl::Json>&) { ADD_FAILURE(); });
  }
  // What was posted meanwhile.
  bool done = false;
  main_->loop().post([&] { done = true; });
  EXPECT_TRUE(turn_until([&] { return done; }));
}

TEST_F(MinivmVm, AnswersNothingAboutAGuestThatEnded) {
  const Disk disk(dir_.file("a"));
  RunOptions short_run = options(dir_.file("a"));
  short_run.workload.seconds = std::chrono::milliseconds(1);
  const std::unique_ptr<Vm> vm = make(short_run);
  bool ended = false;
  vm->start([&] { ended = true; });
  const auto early = ask(*vm, {.verb = Verb::kPause, .device = {}});
  ASSERT_TRUE(turn_until([&] { return ended; }));
  const auto late = ask(*vm, {.verb = Verb::kPause, .device = {}});
  EXPECT_EQ(late.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(late.status().message()), HasSubstr("ended"));
  static_cast<void>(early);
  vm->close();
}

}  // namespace
}  // namespace vhost::minivm
