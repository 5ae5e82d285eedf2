// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_FAULT_H_
#define VHOSTDEV_TESTING_MODEL_FAULT_H_

#include <cstdint>
#include <optional>
#include <span>

#include "absl/strings/string_view.h"

namespace vhost::testing {

// A lie of a back-end about a request it hands back.
enum class ModelFault : uint8_t {
  kNone,
  kUsedIndex,  // The used index moves further than there are requests.
  kUsedId,     // The id is not that of a descriptor.
  kUsedTwice,  // The id is of a descriptor that is not in flight.
  kLength,     // More bytes were written than there was room for.
};

// All but kNone, with the names that programs know them by: "used-index".
struct ModelFaultName {
  ModelFault fault;
  absl::string_view name;
};
std::span<const ModelFaultName> model_faults();
std::optional<ModelFault> model_fault(absl::string_view name);

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_FAULT_H_
