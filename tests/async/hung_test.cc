// SPDX-License-Identifier: Apache-2.0
//
// A back-end that hangs or is dead when its device, its context or the whole
// program ends, and while memory changes for another device: nobody waits for
// it longer than was said, and nothing of it is left.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/async/stopping.h"
#include "tests/async/vmm.h"
#include "tests/badinput/footprint.h"
#include "tests/host/turned_loop.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost::async {
namespace {

using badinput::Footprint;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::LoopKind;
using ::testing::SizeIs;

// For what does not wait at all, on a machine that does something else.
constexpr Duration kAtOnce = std::chrono::seconds(5);

size_t threads() {
  return static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/task"),
                    std::filesystem::directory_iterator()));
}

// ---------------------------------------------------------------------------
// The end of a device and of its context
// ---------------------------------------------------------------------------

// A VM with a back-end process, which stops before one message.
class HungVm {
 public:
  explicit HungVm(uint64_t stop_before,
                  std::optional<ReconnectPolicy> reconnect = {})
      : turned_(testing::make_turned_loop(LoopKind::kEpoll)),
        far_(stop_before) {
    vmm_.emplace(
        turned_->loop(), [this] { turned_->turn(Duration(0)); }, far_,
        VmmOptions{MaskMode::kBackend, reconnect});
  }

  bool until(absl::FunctionRef<bool()> done) {
    const MonotonicTime limit =
        std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done() && std::chrono::steady_clock::now() < limit) vmm_->round();
    return done();
  }
  void connect() {
    // It listens a little later.
    while (vmm_->dev->state() == DeviceState::kCreated) {
      const auto connected = vmm_->begin(
          [this](Completion done) { vmm_->dev->init(std::move(done)); });
      ASSERT_TRUE(
          until([&] { return connected->over() || far_.stands_still(); }));
      if (far_.stands_still()) return;
    }
  }
  // As far as it gets.
  void go_to(const Act& act) {
    connect();
    if (far_.stands_still() || act.from == DeviceState::kCreated) return;
    if (act.from == DeviceState::kRunning) {
      const auto started = vmm_->begin(
          [this](Completion done) { vmm_->dev->start(std::move(done)); });
      ASSERT_TRUE(until([&] { return started->over(); }));
    }
    outcome_ = vmm_->begin(
        [&](Completion done) { act.begin(*vmm_, std::move(done)); });
  }

  std::optional<Vmm>& vmm() { return vmm_; }
  StoppingFar& far() { return far_; }
  const Outcome* outcome() const { return outcome_.get(); }

 private:
  std::unique_ptr<testing::TurnedLoop> turned_;
  StoppingFar far_;
  std::optional<Vmm> vmm_;
  std::shared_ptr<const Outcome> outcome_;
};

class EndOfAHungDevice : public ::testing::TestWithParam<Act> {
 protected:
  // Numbers of messages at which the back-end hangs in the act.
  static std::pair<uint64_t, uint64_t> messages() {
    HungVm vm(StoppingFar::kNever);
    const Act& act = GetParam();
    if (act.from == DeviceState::kCreated) {
      vm.connect();
      return {0, vm.vmm()->dev->counters().messages};
    }
    vm.go_to({"", act.from, [](Vmm&, Completion) {}});
    const uint64_t first = vm.vmm()->dev->counters().messages;
    const auto outcome = vm.vmm()->begin(
        [&](Completion done) { act.begin(*vm.vmm(), std::move(done)); });
    EXPECT_TRUE(vm.until([&] {
      return act.completes ? outcome->over()
                           : vm.vmm()->dev->counters().messages > first;
    }));
    return {first, vm.vmm()->dev->counters().messages};
  }

  // Hangs at each message, does `end`, and looks what is left.
  static void at_each(absl::FunctionRef<void(HungVm&)> end) {
    const auto [first, last] = messages();
    ASSERT_LT(first, last);
    for (uint64_t at = first; at != last; ++at) {
      SCOPED_TRACE(absl::StrCat("message ", at));
      const Footprint before = Footprint::now();
      const size_t threads_before = threads();
      {
        HungVm vm(at);
        vm.go_to(GetParam());
        ASSERT_TRUE(vm.until([&] { return vm.far().stands_still(); }));
        const auto began = std::chrono::steady_clock::now();
        end(vm);
        EXPECT_LT(std::chrono::steady_clock::now() - began, kAtOnce);
        EXPECT_TRUE(vm.far().stands_still());
      }
      EXPECT_EQ(Footprint::now(), before);
      EXPECT_EQ(threads(), threads_before);
      if (HasFailure()) return;
    }
  }
};

TEST_P(EndOfAHungDevice, WaitsForNobody) {
  at_each([](HungVm& vm) {
    vm.vmm()->dev.reset();
    vm.vmm()->settle();
    EXPECT_EQ(vm.vmm()->context.device_count(), 0u);
    EXPECT_THAT(vm.vmm()->binding.kick_notifiers, IsEmpty());
    EXPECT_THAT(vm.vmm()->binding.call_notifiers, IsEmpty());
  });
}

TEST_P(EndOfAHungDevice, AndOfAllThatItBelongedToWaitsForNobody) {
  at_each([](HungVm& vm) { vm.vmm().reset(); });
}

INSTANTIATE_TEST_SUITE_P(At, EndOfAHungDevice, ::testing::ValuesIn(acts()),
                         [](const auto& one) { return one.param.name; });

// ---------------------------------------------------------------------------
// A change of memory that one of two back-ends does not answer
// ---------------------------------------------------------------------------

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kDimm = 16 * kMiB;
constexpr Duration kReplyTimeout = std::chrono::seconds(3);

// Two disks in one VM, on a loop whose time passes where the test lets it.
class TwoDisks : public ::testing::Test {
 protected:
  struct Disk {
    Disk(TwoDisks& vm, std::string name)
        : model([] {
            testing::ModelOptions options;
            options.queues = 1;
            return options;
          }()),
          backend(device.get(), model),
          guest({.queues = 1,
                 .rings_gpa = name == "good" ? 0x10000u : 0x40000u}) {
      const std::string path = vm.dir.file(name);
      EXPECT_EQ(backend.listen_on(path), absl::OkStatus());
      VhostDev::Options options;
      options.name = std::move(name);
      dev = std::make_unique<VhostDev>(
          vm.context,
          make_vhost_user_ops(ConnectTo{path},
                              {.reply_timeout = kReplyTimeout,
                               .memory_timeout = kReplyTimeout}),
          guest, binding, events, nullptr, options);
    }
    std::unique_ptr<testing::ModelBlk> device =
        *testing::ModelBlk::on_memory(kMiB);
    testing::ModelOptions model;
    testing::ModelBackend backend;
    testing::FakeVirtioDevice guest;
    testing::FakeNotifierBinding binding;
    testing::RecordingBackendEvents events;
    std::unique_ptr<VhostDev> dev;
    bool hangs = false;
  };

  TwoDisks() {
    EXPECT_NE(testing::add_memory(memory, 0, kMiB), nullptr);
    good.emplace(*this, "good");
    hung.emplace(*this, "hung");
    for (Disk* disk : {&*good, &*hung}) {
      EXPECT_EQ(
          drive([&](Completion done) { disk->dev->init(std::move(done)); }),
          absl::OkStatus());
      EXPECT_EQ(
          drive([&](Completion done) { disk->dev->start(std::move(done)); }),
          absl::OkStatus());
    }
    hung->hangs = true;
  }

  void rounds() {
    for (int i = 0; i < 50; ++i) {
      loop.run_ready();
      for (Disk* disk : {&*good, &*hung}) {
        if (disk->hangs) continue;
        EXPECT_EQ(disk->backend.step(std::chrono::nanoseconds(0)),
                  absl::OkStatus());
      }
    }
  }
  absl::Status drive(absl::FunctionRef<void(Completion)> begin) {
    absl::Status out = absl::UnknownError("not over");
    begin([&out](absl::Status status) { out = std::move(status); });
    rounds();
    return out;
  }
  absl::Status plug() {
    auto region = MemoryRegion::create_memfd("dimm", kMiB);
    EXPECT_TRUE(region.ok());
    MemorySection section;
    section.gpa = kDimm;
    section.size = kMiB;
    section.region = *region;
    return memory.add(section);
  }

  testing::TempDir dir;
  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  std::optional<Disk> good;
  std::optional<Disk> hung;
};

TEST_F(TwoDisks, OneThatHangsDoesNotKeepMemoryFromTheOther) {
  ASSERT_EQ(plug(), absl::OkStatus());
  std::optional<absl::Status> settled;
  context.when_memory_settled(
      [&settled](absl::Status status) { settled = std::move(status); });
  rounds();

  EXPECT_EQ(good->backend.memory_regions(), 2u);
  EXPECT_FALSE(settled.has_value()) << *settled;

  loop.advance(kReplyTimeout);
  rounds();
  ASSERT_TRUE(settled.has_value());
  EXPECT_EQ(settled->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(settled->message()), HasSubstr("hung: "));
  EXPECT_EQ(hung->dev->state(), DeviceState::kBroken);
  EXPECT_EQ(good->dev->state(), DeviceState::kRunning);
  EXPECT_THAT(good->events.broken_with, IsEmpty());
  EXPECT_EQ(drive([&](Completion done) {
              good->dev->stop(StopReason::kVmPause, std::move(done));
            }),
            absl::OkStatus());
}

TEST_F(TwoDisks, OneThatHangsGivesBackMemoryWhenItIsGivenUp) {
  // Both have it.
  hung->hangs = false;
  bool released = false;
  {
    auto backing = *MemoryRegion::create_memfd("dimm", kMiB);
    MemorySection section;
    section.gpa = kDimm;
    section.size = kMiB;
    section.region = std::make_shared<MemoryRegion>(MemoryRegion::Options{
        .name = "dimm",
        .host = backing->host(),
        .size = kMiB,
        .fd = backing->fd(),
        .release = [backing, &released] { released = true; }});
    ASSERT_EQ(memory.add(section), absl::OkStatus());
  }
  rounds();
  ASSERT_EQ(hung->backend.memory_regions(), 2u);
  hung->hangs = true;

  ASSERT_EQ(memory.remove(kDimm), absl::OkStatus());
  rounds();
  EXPECT_EQ(good->backend.memory_regions(), 1u);
  EXPECT_FALSE(released) << "a back-end that has it may write to it";

  loop.advance(kReplyTimeout);
  rounds();
  EXPECT_EQ(hung->dev->state(), DeviceState::kBroken);
  EXPECT_TRUE(released);
}

TEST_F(TwoDisks, OneThatIsDestroyedWhileItHangsHoldsNobodyUp) {
  ASSERT_EQ(plug(), absl::OkStatus());
  std::optional<absl::Status> settled;
  context.when_memory_settled(
      [&settled](absl::Status status) { settled = std::move(status); });
  rounds();
  ASSERT_FALSE(settled.has_value());

  hung->dev.reset();
  rounds();
  EXPECT_TRUE(settled.has_value());
  EXPECT_EQ(good->backend.memory_regions(), 2u);
}

TEST_F(TwoDisks, WhoWaitsForMemoryHimselfWaitsNoLongerThanHeSaid) {
  ASSERT_EQ(plug(), absl::OkStatus());
  const auto began = std::chrono::steady_clock::now();
  const absl::Status status =
      context.run_until_memory_settled(std::chrono::milliseconds(50));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - began, kAtOnce);
  EXPECT_EQ(hung->dev->state(), DeviceState::kRunning);
}

TEST_F(TwoDisks, OneThatIsDeadHoldsNobodyUp) {
  hung->backend.hang_up();
  ASSERT_EQ(plug(), absl::OkStatus());
  std::optional<absl::Status> settled;
  context.when_memory_settled(
      [&settled](absl::Status status) { settled = std::move(status); });
  rounds();
  ASSERT_TRUE(settled.has_value());
  EXPECT_EQ(good->backend.memory_regions(), 2u);
  EXPECT_EQ(hung->dev->state(), DeviceState::kBroken);
  EXPECT_THAT(hung->events.broken_with, SizeIs(1));
}

// ---------------------------------------------------------------------------
// The end of the program
// ---------------------------------------------------------------------------

constexpr int kExit = 7;

// In the middle of what the program ends.
enum class Middle : uint8_t {
  kStart,    // Of a start; the back-end hangs.
  kWaiting,  // Of the time between two attempts to reconnect; it is dead.
  kAttempt,  // Of an attempt to reconnect; its successor hangs.
};

std::string name_of(Middle middle) {
  switch (middle) {
    case Middle::kStart:
      return "Start";
    case Middle::kWaiting:
      return "Waiting";
    case Middle::kAttempt:
      return "Attempt";
  }
  return "";
}

std::unique_ptr<HungVm> in_a_start() {
  auto vm = std::make_unique<HungVm>(10);
  vm->go_to(acts()[1]);
  if (!vm->until([&] { return vm->far().stands_still(); })) ::exit(1);
  if (vm->outcome() != nullptr && vm->outcome()->over()) ::exit(2);
  return vm;
}

// A device that ran, and is in `phase` of the way back.
std::unique_ptr<HungVm> on_the_way_back(ReconnectState::Phase phase) {
  const bool waits = phase == ReconnectState::Phase::kWaiting;
  ReconnectPolicy policy;
  policy.first_attempts = 1;
  // A first attempt comes at once, and no other while the test runs.
  if (waits) policy.backoff = policy.max_backoff = std::chrono::hours(1);
  auto vm = std::make_unique<HungVm>(StoppingFar::kNever, policy);
  vm->go_to({"", DeviceState::kRunning, [](Vmm& vmm, Completion done) {
               vmm.dev->set_queues_enabled({}, true, std::move(done));
             }});
  VhostDev& dev = *vm->vmm()->dev;
  if (dev.state() != DeviceState::kRunning) ::exit(3);
  vm->far().die();
  if (!waits) vm->far().restart(10);
  const bool there = vm->until([&] {
    const ReconnectState now = dev.reconnect_state();
    return now.phase == phase && now.attempts > 0 &&
           vm->far().stands_still() != waits;
  });
  if (!there || dev.state() == DeviceState::kRunning) ::exit(4);
  return vm;
}

std::unique_ptr<HungVm> in(Middle middle) {
  switch (middle) {
    case Middle::kStart:
      return in_a_start();
    case Middle::kWaiting:
      return on_the_way_back(ReconnectState::Phase::kWaiting);
    case Middle::kAttempt:
      return on_the_way_back(ReconnectState::Phase::kTrying);
  }
  return nullptr;
}

// Ends the program as `in_order` says.
[[noreturn]] void exit_in(Middle middle, bool in_order) {
  std::unique_ptr<HungVm> vm = in(middle);
  if (in_order) {
    vm.reset();
    ::exit(kExit);
  }
  // As at the end of main, after which only static objects are left.
  static std::unique_ptr<HungVm> kept;
  kept = std::move(vm);
  ::exit(kExit);
}

class EndOfTheProgram
    : public ::testing::TestWithParam<std::tuple<Middle, bool>> {};

TEST_P(EndOfTheProgram, WaitsForNoBackEnd) {
  const auto [middle, in_order] = GetParam();
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EXIT(exit_in(middle, in_order), ::testing::ExitedWithCode(kExit), "");
  EXPECT_LT(std::chrono::steady_clock::now() - began, 4 * kAtOnce);
}

std::string name_of_end(
    const ::testing::TestParamInfo<std::tuple<Middle, bool>>& one) {
  const auto& [middle, in_order] = one.param;
  return absl::StrCat(name_of(middle),
                      in_order ? "InOrder" : "InStaticDestructors");
}

INSTANTIATE_TEST_SUITE_P(In, EndOfTheProgram,
                         ::testing::Combine(::testing::Values(Middle::kStart,
                                                              Middle::kWaiting,
                                                              Middle::kAttempt),
                                            ::testing::Bool()),
                         name_of_end);

}  // namespace
}  // namespace vhost::async
