// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_INSTANT_BACKEND_H_
#define TESTS_BENCH_INSTANT_BACKEND_H_

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/user/wire.h"
#include "vhostdev/features.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

// A message as an InstantBackend received it.
struct TracedMessage {
  user::wire::Header header;
  std::array<std::byte, 64> payload;  // As much as fits.
  uint32_t fds;
};

// A vhost-user block device that answers every message at once, believes
// everything and touches no data: what is left is the cost of the front-end.
// A process of its own, pinned to a processor, that serves one connection
// after another; ended by the destructor.
class InstantBackend {
 public:
  struct Options {
    uint32_t queues = 256;
    int cpu = 1;
    bool with_status = false;  // Offers the protocol feature STATUS.
    // Polls enabled rings without pause and completes what it finds.  Without
    // it rings are never looked at.
    bool serve_rings = false;
    FeatureSet features;  // Besides what every virtio-blk needs.
  };

  static absl::StatusOr<std::unique_ptr<InstantBackend>> spawn(
      const Options& options);
  ~InstantBackend();
  InstantBackend(const InstantBackend&) = delete;
  InstantBackend& operator=(const InstantBackend&) = delete;

  // Where it listens.
  const std::string& path() const { return path_; }

  // Keeps it from running, so that it leaves its processor to another.
  void pause();
  void resume();

  // What it received since clear_trace(), while nothing is under way.
  std::vector<TracedMessage> trace() const;
  void clear_trace();

 private:
  struct Trace;
  class Server;

  InstantBackend(std::string path, Trace* trace);

  std::string path_;
  Trace* trace_;  // Shared with the process.
  pid_t child_ = -1;
};

// Runs the calling thread on `cpu` only, if there is such a one.
void pin_to(int cpu);

}  // namespace vhost::bench

#endif  // TESTS_BENCH_INSTANT_BACKEND_H_
