// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_STEPS_H_
#define BACKENDS_VDPA_VDPA_STEPS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// What became of each step of a verb.
class VdpaSteps {
 public:
  // Whether `status` is OK.
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
    return add({.kind = kind, .index = to_int(vq)},
               annotate(status, absl::StrCat("vq ", to_int(vq))));
  }

  // Nothing more can be known of the device.
  bool lost() const { return !result.unknown.empty(); }

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

  BatchResult result;
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_STEPS_H_
