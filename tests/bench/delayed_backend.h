// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_DELAYED_BACKEND_H_
#define TESTS_BENCH_DELAYED_BACKEND_H_

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

// Any number of InstantDevices, one for each connection, that answer as if they
// were far away: each reply leaves a fixed time after its request came, however
// many others are on their way.  One process with one thread, pinned to a
// processor, that does nothing but that; ended by the destructor.
class DelayedBackend {
 public:
  struct Options {
    uint32_t queues = 4;
    Duration delay = std::chrono::milliseconds(1);
    int cpu = 1;
  };

  static absl::StatusOr<std::unique_ptr<DelayedBackend>> spawn(
      const Options& options);
  ~DelayedBackend();
  DelayedBackend(const DelayedBackend&) = delete;
  DelayedBackend& operator=(const DelayedBackend&) = delete;

  // Where it listens.
  const std::string& path() const { return path_; }

  // Ends all connections, as the crash of a back-end would; those who connect
  // again are served as ever.  Does not wait for it to happen.
  void hang_up();

 private:
  explicit DelayedBackend(std::string directory)
      : directory_(std::move(directory)), path_(directory_ + "/socket") {}

  std::string directory_;
  std::string path_;
  UniqueFd hang_up_;  // An eventfd, which the process reads.
  pid_t child_ = -1;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_DELAYED_BACKEND_H_
