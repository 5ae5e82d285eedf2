// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_RECORDING_FILE_H_
#define TOOLS_VHOSTCTL_RECORDING_FILE_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/recording.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// A recording that is written.  Each event is in the file when add() returns: a
// recorder that is killed leaves all of them.
class RecordingFile {
 public:
  // "-" is standard output.
  static absl::StatusOr<RecordingFile> create(const std::string& path);

  // Adds `event` with the time it is now.  After a failure nothing is written.
  void add(Event event);

  const absl::Status& status() const { return status_; }

 private:
  RecordingFile(UniqueFd file, MonotonicTime began)
      : file_(std::move(file)), began_(began) {}

  UniqueFd file_;
  MonotonicTime began_;
  absl::Status status_;
};

// What `fds` are, in their order.
std::vector<RecordedFd> describe_fds(std::span<const UniqueFd> fds);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_RECORDING_FILE_H_
