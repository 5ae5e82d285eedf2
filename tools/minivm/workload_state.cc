// SPDX-License-Identifier: Apache-2.0
//
//   workload := size (u8, u64), depth u32, time, seed u64, polled u8,
//               read_only u8
//   time     := has an end u8, nanoseconds u64
//   report   := counter u64 * 13, faults u64 * 5,
//               nets u32, (name bytes, frames u64)*,
//               first_fault bytes, failure bytes
#include <algorithm>
#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/minivm/workload.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost::minivm {
namespace {

constexpr uint32_t kMostNets = 64;
constexpr size_t kMostName = 64;    // Bytes.
constexpr size_t kMostText = 4096;  // Bytes; longer ones are cut off.
constexpr auto kMostTime = std::chrono::hours(24 * 366 * 100);

// All counters, in the order of the format.
template <typename Report>
auto counters(Report& report) {
  return std::array{&report.reads,
                    &report.writes,
                    &report.verified,
                    &report.in_flight,
                    &report.interrupts,
                    &report.lost_interrupts,
                    &report.empty_interrupts,
                    &report.frames_sent,
                    &report.frames_received,
                    &report.frame_faults,
                    &report.failed_requests,
                    &report.resets,
                    &report.in_doubt,
                    &report.faults[0],
                    &report.faults[1],
                    &report.faults[2],
                    &report.faults[3],
                    &report.faults[4]};
}
static_assert(ctl::kBlockFaults == 5);

}  // namespace

void save_time(const std::optional<Duration>& left, StateWriter& out) {
  out.boolean(left.has_value());
  const Duration time = left.value_or(Duration(0));
  out.u64(static_cast<uint64_t>(std::max(time, Duration(0)).count()));
}

std::optional<Duration> load_time(StateReader& in) {
  const bool ends = in.boolean();
  const uint64_t nanoseconds = in.u64();
  const auto most = static_cast<uint64_t>(Duration(kMostTime).count());
  if (nanoseconds > (ends ? most : 0)) {
    in.refuse(absl::StrCat("a time of ", nanoseconds, " ns"));
  }
  if (!ends || !in.ok()) return std::nullopt;
  return Duration(static_cast<int64_t>(nanoseconds));
}

void save_workload(const Workload& workload, StateWriter& out) {
  out.boolean(workload.size.has_value());
  out.u64(workload.size.value_or(0));
  out.u32(workload.depth);
  save_time(workload.seconds, out);
  out.u64(workload.seed);
  out.boolean(workload.polled);
  out.boolean(workload.read_only);
}

Workload load_workload(StateReader& in) {
  Workload out;
  const bool sized = in.boolean();
  const uint64_t size = in.u64();
  if (sized) out.size = size;
  out.depth = in.u32();
  out.seconds = load_time(in);
  out.seed = in.u64();
  out.polled = in.boolean();
  out.read_only = in.boolean();
  if ((!sized && size != 0) || out.depth == 0 ||
      out.depth > kMaxSplitRingSize) {
    in.refuse(absl::StrCat("a workload of depth ", out.depth));
  }
  return out;
}

void save_report(const WorkloadReport& report, StateWriter& out) {
  for (const uint64_t* const counter : counters(report)) out.u64(*counter);
  out.u32(static_cast<uint32_t>(report.received_by.size()));
  for (const auto& [net, frames] : report.received_by) {
    out.bytes(net);
    out.u64(frames);
  }
  out.bytes(absl::string_view(report.first_fault).substr(0, kMostText));
  out.bytes(absl::string_view(report.failure).substr(0, kMostText));
}

WorkloadReport load_report(StateReader& in) {
  WorkloadReport out;
  for (uint64_t* const counter : counters(out)) *counter = in.u64();
  const uint32_t nets = in.count(kMostNets, 12);
  for (uint32_t i = 0; i < nets && in.ok(); ++i) {
    const std::string net(in.bytes(kMostName));
    if (!out.received_by.emplace(net, in.u64()).second) {
      in.refuse("a net that comes twice");
    }
  }
  out.first_fault = std::string(in.bytes(kMostText));
  out.failure = std::string(in.bytes(kMostText));
  return out;
}

}  // namespace vhost::minivm
