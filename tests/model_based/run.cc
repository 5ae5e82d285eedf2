// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/run.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/sanitizer.h"

namespace vhost::model_based {
namespace {

constexpr uint64_t kFirstSeed = 20'261'121;

uint64_t setting(const char* name, uint64_t otherwise) {
  uint64_t value = 0;
  const char* given = std::getenv(name);
  if (given == nullptr || !absl::SimpleAtoi(given, &value)) return otherwise;
  return value;
}

}  // namespace

Runs runs_of(const Amount& amount) {
  const uint64_t steps = setting(
      "VHOSTDEV_OPERATIONS",
      testing::kSanitizer ? amount.steps_under_sanitizer : amount.steps);
  return {.first = setting("VHOSTDEV_SEED", kFirstSeed),
          .count = (steps + kSequence - 1) / kSequence};
}

std::string run_on(FarSide& far, const std::vector<Step>& steps) {
  Machine machine(far);
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string wrong = machine.take(steps[i]);
    if (!wrong.empty()) {
      return absl::StrCat("step ", i, " (", to_string(steps[i]), "): ", wrong);
    }
  }
  return "";
}

std::string check_and_shrink(const std::vector<Step>& steps, Check check) {
  if (check(steps).empty()) return "";
  const std::vector<Step> few = shrink(steps, check);
  return absl::StrCat(check(few), "\nsteps: ", to_string(few));
}

}  // namespace vhost::model_based
