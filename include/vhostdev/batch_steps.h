// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_BATCH_STEPS_H_
#define VHOSTDEV_BATCH_STEPS_H_

#include <utility>

#include "absl/status/status.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// Puts a BatchResult together, step by step: for a VhostOps whose requests are
// answered at once, such as system calls.
class BatchSteps {
 public:
  // Notes what became of `step`; whether it is applied.  The first status that
  // is not OK is the batch's.  kUnavailable: the device is gone and said
  // neither yes nor no.
  bool add(Step step, const absl::Status& status) {
    if (status.ok()) {
      result.applied.push_back(step);
    } else {
      (absl::IsUnavailable(status) ? result.unknown : result.refused)
          .push_back(step);
    }
    if (result.status.ok()) result.status = status;
    return status.ok();
  }
  bool add(StepKind kind, BackendQueue vq, const absl::Status& status) {
    return add({.kind = kind, .index = to_int(vq)}, status);
  }

  // Whether the fate of a step is not known.
  bool lost() const { return !result.unknown.empty(); }

  // The result as VhostOps promises it: no lists with success, no replies
  // without.
  BatchResult take() {
    if (result.status.ok()) {
      result.applied.clear();
    } else {
      result.bases.clear();
      result.bytes.clear();
      result.host_notifiers.clear();
    }
    return std::move(result);
  }

  BatchResult result;  // For replies.
};

}  // namespace vhost

#endif  // VHOSTDEV_BATCH_STEPS_H_
