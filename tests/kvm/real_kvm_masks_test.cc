// SPDX-License-Identifier: Apache-2.0
// Masked and unmasked thousands of times by another thread, while a real guest
// waits for one interrupt after the other: none may be lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "tests/kvm/kvm_fixture.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {
namespace {

constexpr QueueIndex kVq0{0};

class Masks : public RealKvm {
 protected:
  static constexpr uint32_t kThings = 200;

  struct Masking {
    uint64_t pairs;
    absl::FunctionRef<void()> mask;
    absl::FunctionRef<void()> unmask;
  };

  // Calls `signal` for one thing after the other, each of which the guest must
  // hear of, while another thread masks and unmasks; at least until kThings
  // were heard.
  void signal_while(const Masking& masking, absl::FunctionRef<void()> signal) {
    std::atomic<bool> enough{false};
    std::atomic<bool> masks{true};
    std::thread vcpu([&] {
      for (pairs = 0; pairs < masking.pairs || !enough; ++pairs) {
        masking.mask();
        masking.unmask();
      }
      masks = false;
    });
    uint32_t thing = 0;
    bool heard = true;
    while (heard && masks) {
      guest->tell(++thing);
      signal();
      heard = turn_until([&] { return guest->told() == thing; });
      enough = thing >= kThings || !heard;
    }
    vcpu.join();
    EXPECT_TRUE(heard) << "not told after " << thing - 1 << " things";
    ASSERT_TRUE(guest->end().ok());
    EXPECT_EQ(guest->told(), thing);
    EXPECT_EQ(guest->exits(), 0u);
    EXPECT_EQ(kvm->counters().masks, kvm->counters().unmasks);
    EXPECT_EQ(kvm->counters().refused, 0u);
    RecordProperty("things", static_cast<int>(thing));
  }

  uint64_t pairs = 0;
};

class BareMasks : public Masks {
 protected:
  void signal_while_masking(const EventNotifier& call) {
    signal_while({.pairs = 10'000,
                  .mask = [&] { kvm->mask(kVector); },
                  .unmask = [&] { kvm->unmask(kVector); }},
                 [&] { ASSERT_TRUE(call.signal().ok()); });
    EXPECT_EQ(kvm->counters().masks, pairs);
  }
};

TEST_F(BareMasks, LoseNoInterrupt) {
  ASSERT_TRUE(make().ok());
  const EventNotifier& call = bound_call();
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  signal_while_masking(call);

  EXPECT_EQ(wakeups(), 0u);
}

TEST_F(BareMasks, WithoutIrqfdLoseNoInterrupt) {
  ASSERT_TRUE(make(without_irqfd()).ok());
  const EventNotifier& call = bound_call();
  ASSERT_TRUE(guest->wait_for_interrupts().ok());

  signal_while_masking(call);
}

// The same through a whole device, whose back-end signals.
class DeviceMasks : public Masks {
 protected:
  void SetUp() override {
    ram = testing::add_memory(memory, 0, testing::TinyGuest::kRamSize);
    ASSERT_NE(ram, nullptr);
    set_up_guest(ram);
  }

  absl::Status start(MaskMode mode, KvmNotifiers::Options options) {
    VHOST_RETURN_IF_ERROR(make(std::move(options)));
    context = std::make_unique<VhostContext>(*loop, memory);
    VhostDev::Options device;
    device.name = "disk";
    device.queues = QueueMap::identity(1);
    device.mask_mode = mode;
    auto fake =
        std::make_unique<testing::FakeVhostOps>(testing::like_vhost_user());
    ops = fake.get();
    ops->completes = testing::Completes::kPosted;
    dev = std::make_unique<VhostDev>(*context, std::move(fake), rings, *kvm,
                                     events, nullptr, std::move(device));
    VHOST_RETURN_IF_ERROR(
        drive([&](Completion done) { dev->init(std::move(done)); }));
    // The controller is set up before the first interrupt, which a start
    // sends.
    VHOST_RETURN_IF_ERROR(guest->wait_for_interrupts());
    return drive([&](Completion done) { dev->start(std::move(done)); });
  }

  absl::Status drive(absl::FunctionRef<void(Completion)> operation) {
    absl::Status result = absl::UnknownError("not over");
    bool over = false;
    operation([&](absl::Status status) {
      result = std::move(status);
      over = true;
    });
    turn_until([&] { return over; });
    return result;
  }

  void signal_while_masking() {
    const size_t before = ops->journal.size();
    // As many as above under the payload's workload: tests/minivm/kvm.
    signal_while({.pairs = 2'000,
                  .mask = [&] { dev->mask(kVq0); },
                  .unmask = [&] { dev->unmask(kVq0); }},
                 [&] { ASSERT_TRUE(ops->signal_call(BackendQueue{0})); });
    switches = ops->journal.size() - before;
    EXPECT_EQ(kvm->counters().masks, pairs);
    EXPECT_TRUE(drive([&](Completion done) {
                  dev->stop(StopReason::kVmPause, std::move(done));
                }).ok());
    EXPECT_THAT(ops->misuse, ::testing::IsEmpty());
  }

  AddressSpace memory;
  std::shared_ptr<MemoryRegion> ram;
  testing::FakeVirtioDevice rings{{.rings_gpa = testing::TinyGuest::kFreeGpa}};
  testing::RecordingBackendEvents events;
  std::unique_ptr<VhostContext> context;
  std::unique_ptr<VhostDev> dev;
  testing::FakeVhostOps* ops = nullptr;
  size_t switches = 0;  // What the back-end was told meanwhile.
};

TEST_F(DeviceMasks, LocallyLoseNoInterrupt) {
  ASSERT_TRUE(start(MaskMode::kLocal, default_options()).ok());

  signal_while_masking();

  EXPECT_EQ(switches, 0u);
  EXPECT_EQ(kvm->counters().relayed, 0u);
}

TEST_F(DeviceMasks, LocallyWithoutIrqfdLoseNoInterrupt) {
  ASSERT_TRUE(start(MaskMode::kLocal, without_irqfd()).ok());

  signal_while_masking();

  EXPECT_EQ(switches, 0u);
}

TEST_F(DeviceMasks, AtTheBackEndLoseNoInterrupt) {
  ASSERT_TRUE(start(MaskMode::kBackend, default_options()).ok());

  signal_while_masking();

  EXPECT_EQ(dev->mask_mode(), MaskMode::kBackend);
  EXPECT_GT(switches, 0u);
}

TEST_F(DeviceMasks, AtTheBackEndWithoutIrqfdLoseNoInterrupt) {
  ASSERT_TRUE(start(MaskMode::kBackend, without_irqfd()).ok());

  signal_while_masking();

  EXPECT_EQ(dev->mask_mode(), MaskMode::kBackend);
  EXPECT_GT(switches, 0u);
}

}  // namespace
}  // namespace vhost
