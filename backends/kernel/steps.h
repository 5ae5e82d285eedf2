// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_STEPS_H_
#define BACKENDS_KERNEL_STEPS_H_

#include <utility>

#include "absl/status/status.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// What became of each step of a verb, collected.
class Steps {
 public:
  // Whether the step is applied.
  bool add(Step step, const absl::Status& status) {
    if (status.ok()) {
      result.applied.push_back(step);
    } else {
      // A device that is gone said neither yes nor no.
      (absl::IsUnavailable(status) ? result.unknown : result.refused)
          .push_back(step);
    }
    if (result.status.ok()) result.status = status;
    return status.ok();
  }
  bool add(StepKind kind, BackendQueue vq, const absl::Status& status) {
    return add({.kind = kind, .index = to_int(vq)}, status);
  }

  BatchResult take() {
    if (result.status.ok()) {
      result.applied.clear();
    } else {
      result.bases.clear();
    }
    return std::move(result);
  }

  BatchResult result;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_STEPS_H_
