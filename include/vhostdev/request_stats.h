// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_REQUEST_STATS_H_
#define VHOSTDEV_REQUEST_STATS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "vhostdev/event_loop.h"

namespace vhost {

// How long requests took, in buckets of powers of two.  Fixed size; adding
// allocates nothing.
class LatencyHistogram {
 public:
  // Bucket i counts [2^i, 2^(i+1)) ns, the first also 0 and the last all above:
  // nine minutes.
  static constexpr size_t kBuckets = 40;

  void add(Duration took);
  void add(const LatencyHistogram& other);

  uint64_t count() const { return count_; }
  // Of none: 0.
  Duration min() const { return min_; }
  Duration max() const { return max_; }
  Duration mean() const;
  // The upper end of the bucket that holds the `percent`-th percentile, at most
  // max().  `percent`: 0 to 100.
  Duration percentile(double percent) const;
  const std::array<uint64_t, kBuckets>& buckets() const { return buckets_; }

 private:
  uint64_t count_ = 0;
  Duration total_{};
  Duration min_{};
  Duration max_{};
  std::array<uint64_t, kBuckets> buckets_{};
};

// What became of the requests of one kind.
struct RequestStats {
  std::string request;  // "SET_MEM_TABLE"
  uint64_t sent = 0;
  uint64_t refused = 0;
  uint64_t unanswered = 0;  // When their connection ended.
  // From sending to the reply, of those that have one.
  LatencyHistogram latency;
};

}  // namespace vhost

#endif  // VHOSTDEV_REQUEST_STATS_H_
