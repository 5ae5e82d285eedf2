// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_SHRINK_H_
#define TESTS_MODEL_BASED_SHRINK_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "tests/model_based/step.h"

namespace vhost::model_based {

// What is wrong after some of these steps; empty if nothing is.
using Check = absl::FunctionRef<std::string(const std::vector<Step>&)>;

// A shorter sequence that still fails: none of its steps can be left out.
// `steps` fails.
std::vector<Step> shrink(std::vector<Step> steps, Check check);

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_SHRINK_H_
