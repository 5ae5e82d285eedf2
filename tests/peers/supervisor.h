// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_SUPERVISOR_H_
#define TESTS_PEERS_SUPERVISOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "tests/peers/process.h"
#include "vhostdev/event_loop.h"

namespace vhost::testing {

// Back-ends that serve one disk, an image file, one after another.
class Supervisor {
 public:
  // The command line of a back-end, but for what start() adds.
  Supervisor(std::vector<std::string> command, std::string image)
      : command_(std::move(command)), image_(std::move(image)) {}

  // Starts one; the last one is gone, or killed now.  Does not wait for it.
  absl::Status start(const std::vector<std::string>& more = {});

  // Waits until the one that runs has written to the image, for so long that
  // only one that does not work takes longer.
  //
  // False: it died before.
  // Errors: kDeadlineExceeded  it does neither.
  absl::StatusOr<bool> wait_for_writes();

  // Whether it ends within `time`.
  bool ends_in(Duration time);

  void kill();

  pid_t pid() const { return process_->pid(); }
  uint64_t started() const { return started_; }

 private:
  const std::vector<std::string> command_;
  const std::string image_;
  std::unique_ptr<Process> process_;
  int64_t changed_ = 0;  // When the image was, before the last start.
  uint64_t started_ = 0;
};

}  // namespace vhost::testing

#endif  // TESTS_PEERS_SUPERVISOR_H_
