// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/flight_record.h"

#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vhostdev/request_log.h"

namespace vhost {
namespace {

constexpr char kPayloadUrl[] = "type.vhostdev.dev/flight-record";

std::string index_text(const std::optional<uint16_t>& index) {
  return index.has_value() ? absl::StrCat(*index) : "?";
}

// Both words where the second has bits.
std::string features_text(FeatureSet features) {
  if (features.high() == 0) return absl::StrFormat("0x%x", features.low());
  return absl::StrFormat("0x%x:%016x", features.high(), features.low());
}

void append_ring(std::string& out, const RingRecord& ring) {
  absl::StrAppend(&out, "  vq ", to_int(ring.vq));
  if (to_int(ring.backend) != to_int(ring.vq)) {
    absl::StrAppend(&out, " (back-end's ", to_int(ring.backend), ")");
  }
  absl::StrAppend(&out, ": ", ring.started ? "started" : "stopped",
                  ring.started && !ring.enabled ? ", disabled" : "",
                  ring.masked ? ", masked" : "");
  if (ring.ring.num == 0) {
    absl::StrAppend(&out, ", never ran\n");
    return;
  }
  const VringAddresses& addr = ring.ring.addr;
  absl::StrAppendFormat(
      &out,
      ", %d entries, base %d, avail index %s, used index %s, desc 0x%x, "
      "avail 0x%x, used 0x%x\n",
      ring.ring.num, to_int(ring.base), index_text(ring.avail_index),
      index_text(ring.used_index), addr.desc.gpa, addr.avail.gpa,
      addr.used.gpa);
}

void append_request(std::string& out, const RequestStats& stats) {
  absl::StrAppend(&out, "  ", stats.request, ": ", stats.sent, " sent");
  if (stats.refused != 0)
    absl::StrAppend(&out, ", ", stats.refused, " refused");
  if (stats.unanswered != 0) {
    absl::StrAppend(&out, ", ", stats.unanswered, " unanswered");
  }
  const LatencyHistogram& took = stats.latency;
  if (took.count() != 0) {
    absl::StrAppend(&out, ", answered within ", duration_text(took.min()),
                    " to ", duration_text(took.max()), ", 99 % within ",
                    duration_text(took.percentile(99)));
  }
  absl::StrAppend(&out, "\n");
}

}  // namespace

std::string to_string(const FlightRecord& record) {
  std::string out = absl::StrCat(record.device, ": ", record.backend,
                                 " device, ", record.state);
  if (!record.operation.empty()) {
    absl::StrAppend(&out, ", ", record.operation, " in progress");
  }
  absl::StrAppend(&out, "\n");
  if (!record.broken.ok()) {
    absl::StrAppend(&out,
                    "broken: ", absl::StatusCodeToString(record.broken.code()),
                    ": ", record.broken.message(), "\n");
  }
  absl::StrAppendFormat(
      &out, "features: offered %s, accepted %s; protocol 0x%x\n",
      features_text(record.offered), features_text(record.accepted),
      record.protocol_features);
  absl::StrAppend(&out, "rings: ", record.rings.size(), "\n");
  for (const RingRecord& ring : record.rings) append_ring(out, ring);
  absl::StrAppend(&out, "memory regions: ", record.region_count, "\n");
  for (const RegionRecord& region : record.regions) {
    absl::StrAppendFormat(&out, "  0x%x: %d bytes at 0x%x\n", region.gpa,
                          region.size, region.user);
  }
  if (record.region_count > record.regions.size()) {
    absl::StrAppend(&out, "  and ", record.region_count - record.regions.size(),
                    " more\n");
  }
  const BackendCounters& n = record.counters;
  absl::StrAppend(&out, "counters: ", n.messages, " messages, ", n.replies,
                  " replies, ", n.fds, " descriptors, ", n.waits, " waits, ",
                  n.stalls, " stalls\n");
  absl::StrAppend(&out, "requests:\n");
  for (const RequestStats& stats : record.requests) append_request(out, stats);
  absl::StrAppend(&out, "last messages:\n");
  for (const std::string& line : record.messages) {
    absl::StrAppend(&out, "  ", line, "\n");
  }
  return out;
}

absl::Status attach(absl::Status status, const FlightRecord& record) {
  if (status.ok() || has_flight_record(status)) return status;
  status.SetPayload(kPayloadUrl, absl::Cord(to_string(record)));
  return status;
}

absl::Status attach(absl::Status status, const absl::Status& other) {
  const absl::optional<absl::Cord> text = other.GetPayload(kPayloadUrl);
  if (!status.ok() && text.has_value() && !has_flight_record(status)) {
    status.SetPayload(kPayloadUrl, *text);
  }
  return status;
}

bool has_flight_record(const absl::Status& status) {
  return status.GetPayload(kPayloadUrl).has_value();
}

std::string flight_record_of(const absl::Status& status) {
  const absl::optional<absl::Cord> text = status.GetPayload(kPayloadUrl);
  return text.has_value() ? std::string(*text) : std::string();
}

}  // namespace vhost
