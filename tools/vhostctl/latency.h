// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_LATENCY_H_
#define TOOLS_VHOSTCTL_LATENCY_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// How long requests took: a histogram whose buckets are 1/64 of their value
// wide, so that every percentile is right to 2 %, in constant memory.
class LatencyHistogram {
 public:
  void add(Duration latency);

  uint64_t count() const { return count_; }
  // 0 without a sample.
  Duration min() const { return Duration(count_ == 0 ? 0 : min_); }
  Duration max() const { return Duration(max_); }
  Duration mean() const;

  // The latency that `percent` of all samples do not exceed; min() <= it <=
  // max().
  Duration percentile(double percent) const;

 private:
  static constexpr size_t kSubBuckets = 64;
  static constexpr size_t kBuckets = (64 - 5) * kSubBuckets;

  static size_t bucket_of(uint64_t nanoseconds);
  static uint64_t upper_bound(size_t bucket);

  std::array<uint64_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  uint64_t min_ = UINT64_MAX;
  uint64_t max_ = 0;
  double sum_ = 0;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_LATENCY_H_
