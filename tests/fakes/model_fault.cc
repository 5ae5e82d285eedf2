// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_fault.h"

namespace vhost::testing {
namespace {

constexpr ModelFaultName kNames[] = {
    {ModelFault::kUsedIndex, "used-index"},
    {ModelFault::kUsedId, "used-id"},
    {ModelFault::kUsedTwice, "used-twice"},
    {ModelFault::kLength, "length"},
};

}  // namespace

std::span<const ModelFaultName> model_faults() { return kNames; }

std::optional<ModelFault> model_fault(absl::string_view name) {
  for (const ModelFaultName& one : kNames) {
    if (one.name == name) return one.fault;
  }
  return std::nullopt;
}

}  // namespace vhost::testing
