// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_FLIGHT_RECORD_H_
#define VHOSTDEV_FLIGHT_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/features.h"
#include "vhostdev/request_stats.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vring.h"

namespace vhost {

// Where one queue of a device stands.
struct RingRecord {
  QueueIndex vq{};
  BackendQueue backend{};
  bool started = false;
  bool enabled = false;
  bool masked = false;
  VringBase base{};  // That it was last started from or stopped at.
  // Of the ring that runs, or ran last; num 0: none did.
  VringSetup ring;
  // In guest memory, now.  Empty: not to be read (packed, or not there).
  std::optional<uint16_t> avail_index;
  std::optional<uint16_t> used_index;
};

// One piece of guest memory that the back-end has.
struct RegionRecord {
  uint64_t gpa = 0;
  uint64_t size = 0;  // Bytes.
  uint64_t user = 0;
};

// All that is known of a device and its back-end at one moment: what a bug
// report needs.
struct FlightRecord {
  static constexpr size_t kMaxRegions = 64;

  std::string device;     // VhostDev::Options::name.
  std::string backend;    // BackendTraits::kind.
  std::string state;      // "running"
  std::string operation;  // Under way: "start".  Empty: none.
  absl::Status broken;
  FeatureSet offered;
  FeatureSet accepted;
  uint64_t protocol_features = 0;
  std::vector<RingRecord> rings;
  std::vector<RegionRecord> regions;  // The first kMaxRegions.
  uint64_t region_count = 0;          // That it has.
  std::vector<std::string> messages;  // The last ones, oldest first.
  std::vector<RequestStats> requests;
  BackendCounters counters;
};

// For people; ends with a newline.
std::string to_string(const FlightRecord& record);

// `status` with `record` attached, as a payload of text; an earlier record
// stays.  OK: stays OK.
absl::Status attach(absl::Status status, const FlightRecord& record);
// Likewise with the record that `other` has, if it has one.
absl::Status attach(absl::Status status, const absl::Status& other);
// The text attached to `status` by its VhostDev; empty if there is none.
// Annotating a status keeps it; absl::Status::ToString() prints it too, escaped
// (with kWithNoExtraData it does not).
std::string flight_record_of(const absl::Status& status);
bool has_flight_record(const absl::Status& status);

}  // namespace vhost

#endif  // VHOSTDEV_FLIGHT_RECORD_H_
