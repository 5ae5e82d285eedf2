// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/verify_report.h"

#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/pattern.h"

namespace vhost::ctl {

absl::StatusOr<uint64_t> size_to_verify(const BlkSession& disk,
                                        const Options& options) {
  const uint64_t capacity = disk.config().capacity_bytes();
  const uint64_t size = options.size.value_or(capacity);
  if (size == 0 || size % kPatternBlock != 0 || size > capacity) {
    return absl::InvalidArgumentError(
        absl::StrCat("size of ", size, " bytes: not a multiple of ",
                     kPatternBlock, " from ", kPatternBlock, " to ", capacity));
  }
  return size;
}

double in_us(Duration duration) {
  const double us = std::chrono::duration<double, std::micro>(duration).count();
  return std::round(us * 10) / 10;
}

double in_seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

Json latency_json(const LatencyHistogram& latency) {
  Json out = Json::object();
  out["min"] = in_us(latency.min());
  out["mean"] = in_us(latency.mean());
  out["p50"] = in_us(latency.percentile(50));
  out["p90"] = in_us(latency.percentile(90));
  out["p99"] = in_us(latency.percentile(99));
  out["p999"] = in_us(latency.percentile(99.9));
  out["max"] = in_us(latency.max());
  return out;
}

}  // namespace vhost::ctl
