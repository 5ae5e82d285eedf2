// SPDX-License-Identifier: Apache-2.0
// Masks, raises and signals from threads that know nothing of each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "hw/kvm/kvm_notifiers_impl.h"
#include "tests/kvm/fake_vm.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/kvm_notifiers.h"

namespace vhost {
namespace {

constexpr VectorIndex kVector0{0};
constexpr VectorIndex kVector1{1};

// Parameter: whether there are irqfds.
class KvmThreads : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int kPairs = 10'000;
  static constexpr int kRounds = 200;

  void SetUp() override {
    KvmNotifiers::Options options;
    options.gsi = 5;
    options.irqfd = GetParam();
    auto made = KvmNotifiers::Impl::create(vm.seam(), *loop, options);
    ASSERT_TRUE(made.ok()) << made.status();
    kvm = *std::move(made);
  }

  absl::Status bind() {
    const std::vector<CallBinding> both = {{kVector0, &call0},
                                           {kVector1, &call1}};
    return kvm->bind_calls(both);
  }
  void unbind() {
    kvm->unbind_calls(std::vector<VectorIndex>{kVector0, kVector1});
  }
  // Masks and unmasks kPairs times, and at least until there were kRounds of
  // what the test does meanwhile.
  std::thread masker(VectorIndex vector) {
    ++running;
    return std::thread([this, vector] {
      for (int i = 0; i < kPairs || rounds < kRounds; ++i) {
        kvm->mask(vector);
        kvm->unmask(vector);
      }
      --running;
    });
  }
  void turn() { ASSERT_TRUE(loop->run_once(Duration(0)).ok()); }
  // Turns for up to a minute, for an interrupt after the `seen` first ones.
  bool interrupted_after(uint64_t seen) {
    const auto limit =
        std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (vm.interrupts() == seen) {
      if (std::chrono::steady_clock::now() > limit) return false;
      turn();
    }
    return true;
  }

  testing::FakeVm vm;
  std::unique_ptr<EpollEventLoop> loop = EpollEventLoop::create().value();
  EventNotifier call0 = EventNotifier::create().value();
  EventNotifier call1 = EventNotifier::create().value();
  std::unique_ptr<KvmNotifiers> kvm;
  std::atomic<int> running{0};  // Maskers.
  std::atomic<int> rounds{0};
};

TEST_P(KvmThreads, MasksLoseNoInterrupt) {
  ASSERT_TRUE(bind().ok());
  std::thread vcpu = masker(kVector0);
  bool interrupted = true;
  while (interrupted && running > 0) {
    const uint64_t seen = vm.interrupts();
    ASSERT_TRUE(call0.signal().ok());
    interrupted = interrupted_after(seen);
    rounds = interrupted ? rounds + 1 : kRounds;
  }
  vcpu.join();

  EXPECT_TRUE(interrupted);
  EXPECT_GE(kvm->counters().masks, uint64_t{kPairs});
  EXPECT_EQ(kvm->counters().masks, kvm->counters().unmasks);
  EXPECT_EQ(kvm->counters().refused, 0u);
}

TEST_P(KvmThreads, MasksMeetBindingAndUnbinding) {
  std::thread vcpu0 = masker(kVector0);
  std::thread vcpu1 = masker(kVector1);
  while (running > 0) {
    ASSERT_TRUE(bind().ok());
    turn();
    unbind();
    ++rounds;
  }
  vcpu0.join();
  vcpu1.join();
  turn();

  ASSERT_TRUE(bind().ok());
  const uint64_t seen = vm.interrupts();
  ASSERT_TRUE(call1.signal().ok());
  EXPECT_TRUE(interrupted_after(seen));
  EXPECT_EQ(kvm->counters().refused, 0u);
}

// A pulse that another one cuts short is an interrupt lost.
TEST_P(KvmThreads, PulsesDoNotOverlap) {
  constexpr int kPulses = 2'000;
  ASSERT_TRUE(bind().ok());
  const uint64_t before = vm.interrupts();
  const auto pulse = [&] {
    for (int i = 0; i < kPulses; ++i) {
      const uint64_t seen = vm.interrupts();
      i % 2 == 0 ? kvm->interrupt() : kvm->raise(kVector1);
      EXPECT_GT(vm.interrupts(), seen);
    }
  };
  std::thread one(pulse);
  std::thread other(pulse);
  one.join();
  other.join();

  EXPECT_GE(vm.interrupts() - before, uint64_t{kPulses});
  EXPECT_EQ(kvm->counters().raised, 2u * kPulses);
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutIrqfd, KvmThreads, ::testing::Bool(),
                         [](const auto& with) {
                           return with.param ? "Irqfd" : "Loop";
                         });

}  // namespace
}  // namespace vhost
