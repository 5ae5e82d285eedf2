// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_BENCH_KIT_H_
#define TESTS_BENCH_BENCH_KIT_H_

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace vhost::bench {

// A benchmark that cannot go on says why and ends.
inline void check(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
               std::string(status.message()).c_str());
  std::exit(1);
}

template <typename T>
T take(absl::StatusOr<T> value, const char* what) {
  check(value.status(), what);
  return *std::move(value);
}

// Of one value at least.
inline double median(std::vector<double> values) {
  const auto middle =
      values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace vhost::bench

#endif  // TESTS_BENCH_BENCH_KIT_H_
