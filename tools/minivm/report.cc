// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vhost::minivm {
namespace {

using ctl::BlockFault;
using ctl::Json;

constexpr std::array<BlockFault, ctl::kBlockFaults> kAllFaults = {
    BlockFault::kLost, BlockFault::kStale, BlockFault::kTorn,
    BlockFault::kMisplaced, BlockFault::kDoubled};

uint64_t count(const WorkloadReport& report, BlockFault fault) {
  return report.faults[static_cast<size_t>(fault)];
}

const char* to_string(ReconnectState::Phase phase) {
  switch (phase) {
    case ReconnectState::Phase::kConnected:
      return "connected";
    case ReconnectState::Phase::kWaiting:
      return "waiting";
    case ReconnectState::Phase::kTrying:
      return "trying";
    case ReconnectState::Phase::kGivenUp:
      return "given up";
  }
  return "";
}

}  // namespace

Json report_json(const WorkloadReport& report) {
  Json out = Json::object();
  out["faults"] = report.total_faults();
  out["state"] = report.state;
  if (report.moved) out["moved"] = true;
  out["reads"] = report.reads;
  out["writes"] = report.writes;
  out["verified"] = report.verified;
  out["in_flight"] = report.in_flight;
  for (const BlockFault fault : kAllFaults) {
    out[std::string(ctl::to_string(fault))] = count(report, fault);
  }
  out["failed_requests"] = report.failed_requests;
  out["in_doubt"] = report.in_doubt;
  out["resets"] = report.resets;
  out["interrupts"] = report.interrupts;
  out["lost_interrupts"] = report.lost_interrupts;
  out["empty_interrupts"] = report.empty_interrupts;
  out["frames_sent"] = report.frames_sent;
  out["frames_received"] = report.frames_received;
  out["frame_faults"] = report.frame_faults;
  out["received_by"] = report.received_by;
  if (!report.first_fault.empty()) out["first_fault"] = report.first_fault;
  if (!report.failure.empty()) out["failure"] = report.failure;
  return out;
}

std::string report_text(const WorkloadReport& report) {
  std::string kinds;
  for (const BlockFault fault : kAllFaults) {
    absl::StrAppend(&kinds, kinds.empty() ? "" : ", ", count(report, fault),
                    " ", ctl::to_string(fault));
  }
  std::string out = absl::StrFormat(
      "guest:      %s, %u resets\n"
      "disks:      %u writes, %u reads, %s read back, %u in doubt\n"
      "blocks:     %s; %u requests failed\n"
      "nets:       %u frames sent, %u received, %u faults\n"
      "interrupts: %u, %u lost, %u for nothing\n",
      report.state, report.resets, report.writes, report.reads,
      ctl::human_bytes(report.verified), report.in_doubt, kinds,
      report.failed_requests, report.frames_sent, report.frames_received,
      report.frame_faults, report.interrupts, report.lost_interrupts,
      report.empty_interrupts);
  if (!report.first_fault.empty()) {
    absl::StrAppend(&out, "first:      ", ctl::printable(report.first_fault),
                    "\n");
  }
  if (!report.failure.empty()) {
    absl::StrAppend(&out, "failure:    ", ctl::printable(report.failure), "\n");
  }
  return out;
}

Json device_json(const VhostDev& dev) {
  Json out = Json::object();
  out["state"] = std::string(to_string(dev.state()));
  const ReconnectState reconnect = dev.reconnect_state();
  out["connection"] = to_string(reconnect.phase);
  out["reconnections"] = reconnect.reconnections;
  if (!dev.broken_status().ok()) {
    out["broken"] = dev.broken_status().ToString();
  }
  out["kind"] = dev.traits().kind;
  const BackendCounters counters = dev.counters();
  out["messages"] = counters.messages;
  out["replies"] = counters.replies;
  out["waits"] = counters.waits;
  out["stalls"] = counters.stalls;
  out["descriptors"] = counters.fds;
  return out;
}

}  // namespace vhost::minivm
