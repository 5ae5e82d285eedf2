// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/latency.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace vhost::ctl {

// Values below 64 have a bucket each.  From there on a value's bucket is its
// power of two and the six bits that follow the leading one.
size_t LatencyHistogram::bucket_of(uint64_t nanoseconds) {
  if (nanoseconds < kSubBuckets) return static_cast<size_t>(nanoseconds);
  const unsigned power =
      static_cast<unsigned>(std::bit_width(nanoseconds)) - 1;  // >= 6
  const uint64_t sub = nanoseconds >> (power - 6) & (kSubBuckets - 1);
  return (power - 5) * kSubBuckets + static_cast<size_t>(sub);
}

uint64_t LatencyHistogram::upper_bound(size_t bucket) {
  if (bucket < kSubBuckets) return bucket;
  const size_t shift = bucket / kSubBuckets - 1;
  const uint64_t lower = (kSubBuckets + bucket % kSubBuckets) << shift;
  return lower + ((uint64_t{1} << shift) - 1);
}

void LatencyHistogram::add(Duration latency) {
  const uint64_t ns =
      static_cast<uint64_t>(std::max<int64_t>(0, latency.count()));
  ++buckets_[bucket_of(ns)];
  ++count_;
  min_ = std::min(min_, ns);
  max_ = std::max(max_, ns);
  sum_ += static_cast<double>(ns);
}

Duration LatencyHistogram::mean() const {
  if (count_ == 0) return Duration(0);
  return Duration(static_cast<int64_t>(sum_ / static_cast<double>(count_)));
}

Duration LatencyHistogram::percentile(double percent) const {
  if (count_ == 0) return Duration(0);
  const double wanted = std::ceil(percent * static_cast<double>(count_) / 100);
  const uint64_t rank =
      std::clamp<uint64_t>(static_cast<uint64_t>(wanted), 1, count_);
  uint64_t seen = 0;
  size_t bucket = 0;
  while (bucket < kBuckets && (seen += buckets_[bucket]) < rank) ++bucket;
  const uint64_t value = std::clamp(upper_bound(bucket), min_, max_);
  return Duration(static_cast<int64_t>(value));
}

}  // namespace vhost::ctl
