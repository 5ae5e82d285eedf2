// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/request_stats.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace vhost {

void LatencyHistogram::add(Duration took) {
  // A clock of a test may go backwards.
  took = std::max(took, Duration{0});
  const auto ns = static_cast<uint64_t>(took.count());
  const size_t bucket = ns == 0 ? 0 : std::bit_width(ns) - 1;
  ++buckets_[std::min(bucket, kBuckets - 1)];
  min_ = count_ == 0 ? took : std::min(min_, took);
  max_ = std::max(max_, took);
  total_ += took;
  ++count_;
}

void LatencyHistogram::add(const LatencyHistogram& other) {
  if (other.count_ == 0) return;
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  total_ += other.total_;
  count_ += other.count_;
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
}

Duration LatencyHistogram::mean() const {
  return count_ == 0 ? Duration{0}
                     : Duration(total_.count() / static_cast<int64_t>(count_));
}

Duration LatencyHistogram::percentile(double percent) const {
  if (count_ == 0) return Duration{0};
  const double share = std::clamp(percent, 0.0, 100.0) / 100.0;
  const auto wanted = std::max<uint64_t>(
      1, static_cast<uint64_t>(std::ceil(share * static_cast<double>(count_))));
  uint64_t seen = 0;
  for (size_t i = 0; i + 1 < kBuckets; ++i) {
    seen += buckets_[i];
    if (seen >= wanted) return std::min(max_, Duration(int64_t{2} << i));
  }
  return max_;
}

}  // namespace vhost
