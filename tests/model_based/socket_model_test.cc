// SPDX-License-Identifier: Apache-2.0
// The random sequences of fake_model_test.cc over a real socket, with the model
// back-end on a thread of its own and real requests.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/model_based/run.h"
#include "tests/model_based/socket_far_side.h"

namespace vhost::model_based {
namespace {

TEST(SocketModel, DeviceDoesWhatTheModelSaysThroughRandomSteps) {
  const Runs runs = runs_of({.steps = 10'000, .steps_under_sanitizer = 2'000});
  for (uint64_t seed = runs.first; seed < runs.first + runs.count; ++seed) {
    std::mt19937_64 random(seed);
    const std::vector<Step> steps = random_steps(random, kSequence);
    const auto check = [](const std::vector<Step>& some) {
      SocketFarSide far;
      return run_on(far, some);
    };
    const std::string wrong = check_and_shrink(steps, check);
    ASSERT_EQ(wrong, "") << "VHOSTDEV_SEED=" << seed;
  }
}

}  // namespace
}  // namespace vhost::model_based
