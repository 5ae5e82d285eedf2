// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_PROGRESS_H_
#define TOOLS_VHOSTCTL_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// "write  [=====>      ]  42 %  1.2 GiB/s", as wide as `columns`.  `total` 0:
// no bar, only what is done.
std::string progress_line(absl::string_view what, uint64_t done, uint64_t total,
                          double bytes_per_second, unsigned columns);

// A bar on standard error; silent unless that is a terminal.  The destructor
// removes it, so that an error begins on a clean line.
class Progress {
 public:
  explicit Progress(absl::string_view what, uint64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of `total` bytes.  Cheap: draws at most ten times a second.
  void update(uint64_t done);

 private:
  std::string what_;
  uint64_t total_;
  bool shown_;
  MonotonicTime begun_;
  MonotonicTime next_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_PROGRESS_H_
