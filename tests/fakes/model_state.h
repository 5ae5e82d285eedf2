// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_STATE_H_
#define TESTS_FAKES_MODEL_STATE_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "vhostdev/testing/model_state.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// One state on its way out of the model or into it.
class ModelStateMove {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `options` and `report` outlive it.
  ModelStateMove(bool saving, UniqueFd fd, const ModelStateOptions* options,
                 ModelStateReport* report, Time start);

  // The descriptor to watch; not valid: there is nothing to do any more.
  FdRef fd() const { return fd_; }
  bool saving() const { return saving_; }
  // Whether it has moved all it ever will.
  bool over() const { return !fd_.valid(); }
  // When it begins.
  Time start() const { return start_; }
  bool waits() const { return !over() && !silent_; }

  // Moves what can be moved now; false: the model dies of it.
  bool progress(Time now);
  // Loads all that is there to be read; false: the model dies of it.
  bool read_to_end();
  // Whether all of the state arrived, or left.
  bool whole() const;

 private:
  bool save();
  bool load();
  bool met_fault();

  const bool saving_;
  UniqueFd fd_;
  const ModelStateOptions& options_;
  ModelStateReport& report_;
  const Time start_;
  const uint64_t size_;
  uint64_t moved_ = 0;
  bool silent_ = false;
  bool cut_short_ = false;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_STATE_H_
