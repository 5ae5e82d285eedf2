// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_RUN_H_
#define TESTS_MODEL_BASED_RUN_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/model_based/machine.h"
#include "tests/model_based/shrink.h"
#include "tests/model_based/step.h"

namespace vhost::model_based {

inline constexpr size_t kSequence = 400;  // Steps on one machine.

// Seeds to run, one for each sequence.
struct Runs {
  uint64_t first = 0;
  uint64_t count = 0;
};

struct Amount {
  uint64_t steps = 0;
  uint64_t steps_under_sanitizer = 0;
};

// As much as `amount` says, or as the environment does:
//   VHOSTDEV_SEED=n        the first seed instead of a fixed one
//   VHOSTDEV_OPERATIONS=n  so many steps in all
Runs runs_of(const Amount& amount);

// Takes a new machine through `steps`; what is wrong after one of them, if
// something is.
std::string run_on(FarSide& far, const std::vector<Step>& steps);

// What `check` says of `steps` made as short as possible; empty if nothing.
std::string check_and_shrink(const std::vector<Step>& steps, Check check);

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_RUN_H_
