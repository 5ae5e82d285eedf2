// SPDX-License-Identifier: Apache-2.0
//
// Every operation over every loop: it completes once, on the loop, after the
// call; it is cancelled at any moment; and when the device is gone, so is it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/async/vmm.h"
#include "tests/host/turned_loop.h"

namespace vhost::async {
namespace {

using ::testing::HasSubstr;
using testing::LoopKind;

// A device that is about to do `operation`.
class Scene {
 public:
  Scene(LoopKind loop, const Operation& operation, FarKind far)
      : turned_(testing::make_turned_loop(loop)),
        far_(make_far_side(far)),
        vmm_(
            turned_->loop(), [this] { turned_->turn(Duration(0)); }, *far_) {
    vmm_.bring_to(operation.from);
    operation.prepare(vmm_);
  }
  Vmm& vmm() { return vmm_; }
  FarSide& far() { return *far_; }

 private:
  std::unique_ptr<testing::TurnedLoop> turned_;
  std::unique_ptr<FarSide> far_;
  Vmm vmm_;
};

class EveryOperation
    : public ::testing::TestWithParam<std::tuple<LoopKind, Operation>> {
 protected:
  static const Operation& operation() { return std::get<1>(GetParam()); }

  // Runs `body` on a fresh scene for each place.
  static void everywhere(
      const std::function<void(Scene&, const Operation::Place&)>& body) {
    for (const Operation::Place& place : operation().places) {
      SCOPED_TRACE(name_of(place.kind));
      Scene scene(std::get<0>(GetParam()), operation(), place.kind);
      body(scene, place);
    }
  }

  // Runs `body` once for each number of rounds that the operation takes, with
  // the operation that far; `body` says whether it was over before.
  static void at_every_moment(
      const std::function<bool(Scene&, const Operation::Place&,
                               const std::shared_ptr<const Outcome>&)>& body) {
    for (const Operation::Place& place : operation().places) {
      bool over = false;
      for (int rounds = 0; !over; ++rounds) {
        SCOPED_TRACE(absl::StrCat(name_of(place.kind), " after ", rounds));
        ASSERT_LT(rounds, 1000) << "it never ends";
        Scene scene(std::get<0>(GetParam()), operation(), place.kind);
        const auto outcome = begin(scene);
        for (int i = 0; i < rounds; ++i) scene.vmm().round();
        over = body(scene, place, outcome);
        if (HasFailure()) return;
      }
    }
  }

  static std::shared_ptr<const Outcome> begin(Scene& scene) {
    return scene.vmm().begin([&](Completion done) {
      operation().begin(scene.vmm(), std::move(done));
    });
  }

  static void expect_ended(Scene& scene, const Outcome& outcome,
                           absl::StatusCode code) {
    EXPECT_TRUE(scene.vmm().rounds_until([&] { return outcome.over(); }));
    scene.vmm().settle();
    EXPECT_EQ(outcome.calls, 1);
    EXPECT_EQ(outcome.status.code(), code) << outcome.status;
    EXPECT_TRUE(outcome.on_loop);
  }
};

TEST_P(EveryOperation, CompletesOnceOnTheLoopAfterTheCall) {
  everywhere([](Scene& scene, const Operation::Place& place) {
    const auto outcome = begin(scene);
    expect_ended(scene, *outcome, place.code);
    EXPECT_TRUE(scene.vmm().events.broken_with.empty());
  });
}

TEST_P(EveryOperation, IsCancelledAtAnyMoment) {
  at_every_moment([](Scene& scene, const Operation::Place& place,
                     const std::shared_ptr<const Outcome>& outcome) {
    Vmm& vmm = scene.vmm();
    const bool was_over = outcome->over();
    const DeviceState before = vmm.dev->state();
    vmm.dev->cancel();
    EXPECT_FALSE(!was_over && outcome->over()) << "completed inside cancel()";
    EXPECT_TRUE(vmm.rounds_until([&] { return outcome->over(); }));
    vmm.settle();
    EXPECT_EQ(outcome->calls, 1);
    EXPECT_TRUE(outcome->on_loop);

    const bool cancelled =
        outcome->status.code() == absl::StatusCode::kCancelled;
    // Between the end of the operation and the turn that says so there is
    // nothing to cancel any more.
    EXPECT_TRUE(cancelled || outcome->status.code() == place.code)
        << outcome->status;
    EXPECT_FALSE(cancelled && was_over);
    if (!operation().can_be_cancelled) {
      EXPECT_FALSE(cancelled) << outcome->status;
    }
    if (cancelled) {
      EXPECT_THAT(std::string(outcome->status.message()),
                  HasSubstr("cancelled"));
      EXPECT_FALSE(scene.far().connected());
      const bool connecting = before == DeviceState::kCreated;
      EXPECT_EQ(vmm.dev->state(),
                connecting ? DeviceState::kCreated : DeviceState::kBroken);
      EXPECT_EQ(vmm.events.broken_with.size(), connecting ? 0u : 1u);
    }
    return was_over;
  });
}

using CancellableOperation = EveryOperation;

// Of the first round there is no doubt.
TEST_P(CancellableOperation, IsCancelledWhenItHasJustBegun) {
  everywhere([](Scene& scene, const Operation::Place& place) {
    if (place.code != absl::StatusCode::kOk) return;
    const auto outcome = begin(scene);
    scene.vmm().dev->cancel();
    expect_ended(scene, *outcome, absl::StatusCode::kCancelled);
  });
}

TEST_P(EveryOperation, IsForgottenWithItsDevice) {
  at_every_moment([](Scene& scene, const Operation::Place&,
                     const std::shared_ptr<const Outcome>& outcome) {
    Vmm& vmm = scene.vmm();
    const bool was_over = outcome->over();
    vmm.dev.reset();
    vmm.settle();
    if (operation().of_device) {
      EXPECT_EQ(outcome->calls, was_over ? 1 : 0);
    } else {
      // The context is still there and says what became of its change.
      EXPECT_EQ(outcome->calls, 1);
    }
    EXPECT_FALSE(scene.far().connected());
    return was_over;
  });
}

// What comes for a connection that was given up does not reach the next one.
TEST_P(CancellableOperation, IsNotConfusedWithThatOfAnEarlierConnection) {
  everywhere([](Scene& scene, const Operation::Place& place) {
    Vmm& vmm = scene.vmm();
    const auto first = begin(scene);
    vmm.round();
    vmm.dev->cancel();
    const auto forced = vmm.begin(
        [&](Completion done) { vmm.dev->force_stop(std::move(done)); });
    EXPECT_TRUE(vmm.rounds_until([&] { return forced->over(); }));
    EXPECT_EQ(first->calls, 1);
    vmm.dev->clear_acked_features();
    vmm.bring_to(operation().from);
    operation().prepare(vmm);
    const auto second = begin(scene);
    expect_ended(scene, *second, place.code);
    EXPECT_EQ(first->calls, 1);
  });
}

std::vector<Operation> cancellable() {
  std::vector<Operation> out = operations();
  std::erase_if(out,
                [](const Operation& one) { return !one.can_be_cancelled; });
  return out;
}

std::string test_name(
    const ::testing::TestParamInfo<std::tuple<LoopKind, Operation>>& one) {
  const auto& [loop, operation] = one.param;
  return absl::StrCat(name_of(loop), operation.name);
}

INSTANTIATE_TEST_SUITE_P(
    On, EveryOperation,
    ::testing::Combine(::testing::ValuesIn(testing::loop_kinds()),
                       ::testing::ValuesIn(operations())),
    test_name);
INSTANTIATE_TEST_SUITE_P(
    On, CancellableOperation,
    ::testing::Combine(::testing::ValuesIn(testing::loop_kinds()),
                       ::testing::ValuesIn(cancellable())),
    test_name);

}  // namespace
}  // namespace vhost::async
