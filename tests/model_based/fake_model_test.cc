// SPDX-License-Identifier: Apache-2.0
// Random sequences of everything that can happen to a device, on a back-end in
// this process, compared step by step with a model that knows no messages.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/model_based/fake_far_side.h"
#include "tests/model_based/run.h"

namespace vhost::model_based {
namespace {

TEST(FakeModel, DeviceDoesWhatTheModelSaysThroughRandomSteps) {
  const Runs runs =
      runs_of({.steps = 1'000'000, .steps_under_sanitizer = 50'000});
  for (uint64_t seed = runs.first; seed < runs.first + runs.count; ++seed) {
    std::mt19937_64 random(seed);
    const auto completes = random() % 2 == 0 ? testing::Completes::kInline
                                             : testing::Completes::kPosted;
    const std::vector<Step> steps = random_steps(random, kSequence);
    const auto check = [completes](const std::vector<Step>& some) {
      FakeFarSide far(completes);
      return run_on(far, some);
    };
    const std::string wrong = check_and_shrink(steps, check);
    ASSERT_EQ(wrong, "") << "VHOSTDEV_SEED=" << seed;
  }
}

TEST(RandomSteps, MeetARunningDeviceMoreOftenThanNot) {
  std::mt19937_64 random(1);
  FakeFarSide far(testing::Completes::kInline);
  Machine machine(far);
  int running = 0;
  const std::vector<Step> steps = random_steps(random, 10'000);
  for (const Step& step : steps) {
    ASSERT_EQ(machine.take(step), "");
    if (machine.running()) ++running;
  }
  EXPECT_GT(running, 3'000);
}

TEST(Shrink, LeavesOnlyTheStepsThatMatter) {
  std::mt19937_64 random(1);
  std::vector<Step> steps = random_steps(random, 100);
  steps[20] = {Kind::kPlug, 7, 0};
  steps[70] = {Kind::kMask, 9, 0};
  const auto check = [](const std::vector<Step>& some) -> std::string {
    bool plugged = false;
    for (const Step& step : some) {
      if (step.kind == Kind::kPlug && step.queue == 7) plugged = true;
      if (step.kind == Kind::kMask && step.queue == 9 && plugged) return "both";
    }
    return "";
  };

  const std::vector<Step> few = shrink(steps, check);

  EXPECT_EQ(to_string(few), "plug 7; mask 9");
}

}  // namespace
}  // namespace vhost::model_based
