// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_REQUEST_LOG_H_
#define VHOSTDEV_REQUEST_LOG_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/request_stats.h"

// For who implements VhostOps: what VhostOps::recent() and request_stats()
// tell. Recording allocates nothing; words are made when asked for.
namespace vhost {

// Counts what became of requests, by kind.  Kinds are numbered from 0; larger
// numbers than there are kinds are not counted.
class RequestCounts {
 public:
  explicit RequestCounts(size_t kinds) : kinds_(kinds) {}

  void sent(size_t kind);
  void refused(size_t kind);
  void unanswered(size_t kind);
  void answered(size_t kind, Duration took);

  // Of the kinds that were sent, in the order of their numbers.
  std::vector<RequestStats> stats(
      absl::FunctionRef<std::string(size_t kind)> name) const;

 private:
  struct Kind {
    uint64_t sent = 0;
    uint64_t refused = 0;
    uint64_t unanswered = 0;
    LatencyHistogram latency;
  };

  std::vector<Kind> kinds_;
};

// "+12.345 ms": a time since the beginning, as the lines of recent() show it.
std::string since_text(Duration time);
// "740 ns", "12.3 us", "4.56 ms", "1.20 s"
std::string duration_text(Duration time);

// The calls made to a device of the kernel.
class CallLog {
 public:
  // One kind of call: an ioctl, or a number of the caller's own that is none.
  struct Name {
    unsigned long request;
    const char* name;
  };

  static constexpr size_t kKept = 32;

  // `names` outlives it.  Other calls are logged as "another".
  explicit CallLog(std::span<const Name> names)
      : names_(names), counts_(names.size() + 1) {}

  // A call that began at `at` and took `took`; `error`: errno, or 0.
  void add(unsigned long request, MonotonicTime at, Duration took, int error);

  // Oldest first: "+1.234 ms VHOST_SET_OWNER: EBUSY (took 1.2 us)".  Times are
  // since the first call of all.
  std::vector<std::string> lines() const;
  std::vector<RequestStats> stats() const;

 private:
  struct Call {
    size_t kind = 0;
    Duration at{};
    Duration took{};
    int error = 0;
  };

  std::string name_of(size_t kind) const;

  const std::span<const Name> names_;
  RequestCounts counts_;
  MonotonicTime begun_{};
  uint64_t count_ = 0;
  std::vector<Call> ring_ = std::vector<Call>(kKept);
};

}  // namespace vhost

#endif  // VHOSTDEV_REQUEST_LOG_H_
