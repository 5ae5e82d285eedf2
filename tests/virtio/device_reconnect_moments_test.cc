// SPDX-License-Identifier: Apache-2.0
// An attempt to reconnect, and whatever may come between each two of its
// verbs.
#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/virtio/reconnect_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Phase = ReconnectState::Phase;
using testing::Completes;

// What a test does in the middle, and looks at in the end.
struct Moment {
  std::string name;
  std::function<void()> act;
  std::function<void()> expect;
};

class ReconnectMoments : public ReconnectTest {
 protected:
  // A device that ran, in an attempt of which `verbs` are done; false: the
  // attempt has not so many.
  bool come_to(int verbs) {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_inflight = true;
    events = testing::RecordingBackendEvents();
    make_running(traits);
    more_ = nullptr;
    outcome_ = Outcome();
    ops->completes = Completes::kOnRequest;
    lose();
    loop.run_ready();
    for (int i = 0; i < verbs; ++i) {
      if (!ops->complete_next()) return false;
      loop.run_ready();
    }
    return ops->under_way() > 0;
  }

  // Everything goes well from here on.
  void finish() {
    if (dev == nullptr) return loop.run_ready(), void();
    ops->completes = Completes::kInline;
    while (ops->complete_next()) loop.run_ready();
    loop.advance(std::chrono::milliseconds(200));
  }

  // `moment` between any two verbs of an attempt, and inside the completion of
  // each.
  void at_every_verb(const Moment& moment) {
    int verbs = 0;
    for (; come_to(verbs); ++verbs) {
      SCOPED_TRACE(absl::StrCat(moment.name, " behind verb ", verbs));
      moment.act();
      finish();
      moment.expect();
      drop();
    }
    // Open, SetFeatures, Configure and Go at least.
    EXPECT_GE(verbs, 4);
    drop();
  }
  void drop() {
    if (dev != nullptr) {
      EXPECT_THAT(ops->misuse, IsEmpty());
    }
    dev.reset();
    ops = nullptr;
    if (more_ != nullptr) {
      ASSERT_TRUE(memory.remove(kMore).ok());
      more_ = nullptr;
    }
    loop.run_ready();
    EXPECT_EQ(loop.timers(), 0);
    EXPECT_EQ(loop.watches(), 0);
  }

  void expect_running() {
    EXPECT_EQ(dev->state(), DeviceState::kRunning);
    EXPECT_EQ(events.reconnections, 1);
    EXPECT_THAT(events.broken_with, SizeIs(1));
    EXPECT_TRUE(ops->backend.queues[0].started);
  }
  void expect_ready() {
    EXPECT_EQ(dev->state(), DeviceState::kReady);
    EXPECT_THAT(events.broken_with, SizeIs(1));
    EXPECT_THAT(binding.kick_notifiers, IsEmpty());
  }
  void expect_given_up() {
    EXPECT_EQ(dev->state(), DeviceState::kBroken);
    EXPECT_EQ(dev->reconnect_state().phase, Phase::kGivenUp);
    EXPECT_THAT(events.broken_with, SizeIs(1));
    EXPECT_EQ(events.reconnections, 0);
    EXPECT_EQ(loop.timers(), 0);
    EXPECT_FALSE(ops->open());
    EXPECT_THAT(binding.kick_notifiers, IsEmpty());
  }

  static constexpr uint64_t kMore = kRam * 4;
  std::shared_ptr<MemoryRegion> more_;
  Outcome outcome_;
};

TEST_F(ReconnectMoments, Nothing) {
  at_every_verb({.name = "nothing",
                 .act = [] {},
                 .expect =
                     [this] {
                       expect_running();
                       EXPECT_EQ(dev->reconnect_state().reconnections, 1);
                     }});
}

TEST_F(ReconnectMoments, TheBackEndIsLost) {
  at_every_verb({.name = "loss",
                 .act = [this] { lose(); },
                 .expect = [this] { expect_running(); }});
}

TEST_F(ReconnectMoments, TheBackEndRefuses) {
  at_every_verb(
      {.name = "refusal",
       .act =
           [this] {
             for (const char* verb : {"SetFeatures", "Configure", "Go"}) {
               ops->refuse_next(verb, absl::AbortedError("no"));
             }
           },
       .expect =
           [this] {
             expect_running();
             ops->forget_plans();
           }});
}

TEST_F(ReconnectMoments, TheBackEndIsSilent) {
  at_every_verb({.name = "silence",
                 .act =
                     [this] {
                       loop.advance(std::chrono::seconds(40));
                       EXPECT_GE(dev->reconnect_state().attempts, 2);
                     },
                 .expect = [this] { expect_running(); }});
}

TEST_F(ReconnectMoments, Stop) {
  at_every_verb({.name = "stop",
                 .act =
                     [this] {
                       dev->stop(StopReason::kVmPause, outcome_.completion());
                       loop.run_ready();
                       EXPECT_EQ(outcome_.code(),
                                 absl::StatusCode::kUnavailable);
                       EXPECT_EQ(dev->state(), DeviceState::kBroken);
                     },
                 .expect = [this] { expect_ready(); }});
}

TEST_F(ReconnectMoments, Reset) {
  at_every_verb({.name = "reset",
                 .act =
                     [this] {
                       dev->reset(outcome_.completion());
                       loop.run_ready();
                       EXPECT_EQ(outcome_.code(),
                                 absl::StatusCode::kUnavailable);
                       EXPECT_EQ(dev->inflight().fd, nullptr);
                     },
                 .expect = [this] { expect_ready(); }});
}

TEST_F(ReconnectMoments, Start) {
  at_every_verb({.name = "start",
                 .act =
                     [this] {
                       dev->start(outcome_.completion());
                       loop.run_ready();
                       EXPECT_FALSE(outcome_.over());
                     },
                 .expect =
                     [this] {
                       expect_running();
                       EXPECT_TRUE(outcome_.status().ok());
                     }});
}

TEST_F(ReconnectMoments, StopAndStart) {
  at_every_verb({.name = "stop, start",
                 .act =
                     [this] {
                       Outcome stopped;
                       dev->stop(StopReason::kVmPause, stopped.completion());
                       dev->start(outcome_.completion());
                       loop.run_ready();
                       EXPECT_EQ(stopped.code(),
                                 absl::StatusCode::kUnavailable);
                     },
                 .expect =
                     [this] {
                       expect_running();
                       EXPECT_TRUE(outcome_.status().ok());
                     }});
}

TEST_F(ReconnectMoments, Init) {
  at_every_verb({.name = "init",
                 .act =
                     [this] {
                       dev->init(outcome_.completion());
                       loop.run_ready();
                     },
                 .expect =
                     [this] {
                       EXPECT_TRUE(outcome_.status().ok());
                       expect_ready();
                       EXPECT_EQ(events.reconnections, 0);
                     }});
}

TEST_F(ReconnectMoments, MemoryIsAdded) {
  at_every_verb(
      {.name = "memory",
       .act =
           [this] {
             more_ = testing::add_memory(memory, kMore, kRam);
             EXPECT_TRUE(
                 context.run_until_memory_settled(Duration::zero()).ok());
           },
       .expect =
           [this] {
             expect_running();
             EXPECT_THAT(ops->backend.memory, SizeIs(2));
           }});
}

TEST_F(ReconnectMoments, MaskAndUnmask) {
  at_every_verb({.name = "mask",
                 .act = [this] { dev->mask(kVq0); },
                 .expect =
                     [this] {
                       expect_running();
                       const VectorIndex vector{0};
                       const uint64_t before = binding.interrupts(vector);
                       ops->signal_call(BackendQueue{0});
                       EXPECT_EQ(binding.interrupts(vector), before);
                       dev->unmask(kVq0);
                       EXPECT_EQ(binding.interrupts(vector), before + 1);
                     }});
}

TEST_F(ReconnectMoments, QueuesAreDisabled) {
  at_every_verb({.name = "disable",
                 .act =
                     [this] {
                       const QueueIndex off[] = {kVq1};
                       dev->set_queues_enabled(off, false,
                                               outcome_.completion());
                       loop.run_ready();
                       EXPECT_TRUE(outcome_.status().ok());
                     },
                 .expect =
                     [this] {
                       expect_running();
                       EXPECT_TRUE(ops->backend.queues[0].enabled);
                       EXPECT_FALSE(ops->backend.queues[1].enabled);
                     }});
}

TEST_F(ReconnectMoments, Cancel) {
  at_every_verb({.name = "cancel",
                 .act =
                     [this] {
                       dev->start(outcome_.completion());
                       dev->cancel();
                       loop.run_ready();
                       EXPECT_EQ(outcome_.code(), absl::StatusCode::kCancelled);
                     },
                 .expect = [this] { expect_given_up(); }});
}

TEST_F(ReconnectMoments, CancelOfNothing) {
  at_every_verb({.name = "cancel of nothing",
                 .act = [this] { dev->cancel(); },
                 .expect = [this] { expect_running(); }});
}

TEST_F(ReconnectMoments, StopReconnecting) {
  at_every_verb({.name = "stop_reconnecting",
                 .act = [this] { dev->stop_reconnecting(); },
                 .expect = [this] { expect_given_up(); }});
}

TEST_F(ReconnectMoments, ForceStop) {
  at_every_verb({.name = "force_stop",
                 .act =
                     [this] {
                       dev->force_stop(outcome_.completion());
                       loop.run_ready();
                       EXPECT_TRUE(outcome_.status().ok());
                     },
                 .expect = [this] { expect_given_up(); }});
}

TEST_F(ReconnectMoments, ReconnectNowChangesNothing) {
  at_every_verb({.name = "reconnect_now",
                 .act = [this] { dev->reconnect_now(); },
                 .expect = [this] { expect_running(); }});
}

TEST_F(ReconnectMoments, OtherOperationsAreRefused) {
  at_every_verb({.name = "get_config",
                 .act =
                     [this] {
                       dev->send_rarp({}, outcome_.completion());
                       loop.run_ready();
                       EXPECT_EQ(outcome_.code(),
                                 absl::StatusCode::kFailedPrecondition);
                       EXPECT_FALSE(dev->set_queue_base(kVq0, {}).ok());
                       EXPECT_FALSE(dev->reset_inflight().ok());
                     },
                 .expect = [this] { expect_running(); }});
}

TEST_F(ReconnectMoments, TheDeviceIsDestroyed) {
  at_every_verb({.name = "destruction",
                 .act =
                     [this] {
                       dev->start(outcome_.completion());
                       dev.reset();
                       ops = nullptr;
                     },
                 .expect =
                     [this] {
                       EXPECT_FALSE(outcome_.over());
                       EXPECT_EQ(loop.timers(), 0);
                       EXPECT_THAT(*journal, Contains("destroyed"));
                     }});
}

// The VMM's own callbacks are called in the middle of an attempt, with its
// sequence on the stack.
class InsideBind final : public NotifierBinding {
 public:
  explicit InsideBind(testing::FakeNotifierBinding& inner) : inner_(inner) {}
  std::function<void()> inside;

  absl::Status bind_kicks(std::span<const KickBinding> bindings) override {
    const absl::Status status = inner_.bind_kicks(bindings);
    if (inside) std::exchange(inside, nullptr)();
    return status;
  }
  void unbind_kicks(std::span<const QueueIndex> queues) override {
    inner_.unbind_kicks(queues);
  }
  absl::Status bind_calls(std::span<const CallBinding> bindings) override {
    return inner_.bind_calls(bindings);
  }
  void unbind_calls(std::span<const VectorIndex> vectors) override {
    inner_.unbind_calls(vectors);
  }
  void mask(VectorIndex vector) override { inner_.mask(vector); }
  void unmask(VectorIndex vector) override { inner_.unmask(vector); }
  void raise(VectorIndex vector) override { inner_.raise(vector); }

 private:
  testing::FakeNotifierBinding& inner_;
};

TEST_F(ReconnectMoments, WhateverIsAskedForInsideAnAttemptEndsItSoon) {
  InsideBind bind(binding);
  const std::function<void()> acts[] = {
      [this] { dev->stop(StopReason::kVmPause, outcome_.completion()); },
      [this] { dev->reset(outcome_.completion()); },
      [this] { dev->stop_reconnecting(); },
      [this] { dev->force_stop(outcome_.completion()); },
      [this] {
        dev.reset();
        ops = nullptr;
      },
      [this] { more_ = testing::add_memory(memory, kMore, kRam); },
  };
  for (size_t i = 0; i < std::size(acts); ++i) {
    SCOPED_TRACE(i);
    events = testing::RecordingBackendEvents();
    outcome_ = Outcome();
    auto fake =
        std::make_unique<testing::FakeVhostOps>(testing::like_vhost_user());
    ops = fake.get();
    dev = std::make_unique<VhostDev>(context, std::move(fake), guest, bind,
                                     events, &services, with_policy());
    ASSERT_TRUE(init().ok());
    ASSERT_TRUE(start().ok());
    bind.inside = acts[i];

    lose();
    loop.advance(std::chrono::milliseconds(200));

    EXPECT_EQ(bind.inside, nullptr);
    if (i < 2) {
      EXPECT_EQ(outcome_.code(), absl::StatusCode::kUnavailable);
      expect_ready();
    } else if (i < 4) {
      expect_given_up();
    } else if (i == 5) {
      expect_running();
      EXPECT_THAT(ops->backend.memory, SizeIs(2));
    }
    drop();
  }
}

}  // namespace
}  // namespace vhost
