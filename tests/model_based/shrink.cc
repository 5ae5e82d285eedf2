// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/shrink.h"

#include <algorithm>
#include <cstddef>

namespace vhost::model_based {
namespace {

// Without the `count` steps from `first` on.
std::vector<Step> without(const std::vector<Step>& steps, size_t first,
                          size_t count) {
  std::vector<Step> out;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (i < first || i >= first + count) out.push_back(steps[i]);
  }
  return out;
}

}  // namespace

std::vector<Step> shrink(std::vector<Step> steps, Check check) {
  for (size_t piece = std::max<size_t>(steps.size() / 2, 1); piece > 0;) {
    bool shorter = false;
    for (size_t at = 0; at < steps.size();) {
      std::vector<Step> candidate = without(steps, at, piece);
      if (!candidate.empty() && !check(candidate).empty()) {
        steps = std::move(candidate);
        shorter = true;
      } else {
        at += piece;
      }
    }
    if (!shorter || piece > 1) piece /= 2;
  }
  return steps;
}

}  // namespace vhost::model_based
