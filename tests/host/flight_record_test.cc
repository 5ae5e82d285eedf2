// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/flight_record.h"

#include <gtest/gtest.h>

#include <chrono>

#include "vhostdev/status.h"

namespace vhost {
namespace {

FlightRecord record_of_a_disk() {
  FlightRecord out;
  out.device = "disk";
  out.backend = "vhost-user";
  out.state = "running";
  out.operation = "stop";
  out.broken = absl::UnavailableError("gone");
  out.offered = FeatureSet::from_words(0x30, 0x2);
  out.accepted = FeatureSet::from_words(0x10);
  out.protocol_features = 0x8;
  RingRecord ring;
  ring.started = true;
  ring.masked = true;
  ring.base = VringBase{3};
  ring.ring.num = 256;
  ring.ring.addr.desc.gpa = 0x1000;
  ring.ring.addr.avail.gpa = 0x2000;
  ring.ring.addr.used.gpa = 0x3000;
  ring.avail_index = uint16_t{9};
  out.rings.push_back(ring);
  RingRecord idle;
  idle.vq = QueueIndex{1};
  idle.backend = BackendQueue{2};
  out.rings.push_back(idle);
  out.regions.push_back({.gpa = 0x0, .size = 4096, .user = 0x7000});
  out.region_count = 70;
  RequestStats stats;
  stats.request = "SET_OWNER";
  stats.sent = 2;
  stats.refused = 1;
  stats.unanswered = 1;
  stats.latency.add(std::chrono::microseconds(5));
  out.requests.push_back(stats);
  out.messages = {"+0.000 ms -> SET_OWNER (0 bytes)"};
  out.counters.messages = 2;
  return out;
}

TEST(FlightRecord, ReadsAsText) {
  EXPECT_EQ(to_string(record_of_a_disk()),
            "disk: vhost-user device, running, stop in progress\n"
            "broken: UNAVAILABLE: gone\n"
            "features: offered 0x2:0000000000000030, accepted 0x10; protocol "
            "0x8\n"
            "rings: 2\n"
            "  vq 0: started, disabled, masked, 256 entries, base 3, avail "
            "index 9, used index ?, desc 0x1000, avail 0x2000, used 0x3000\n"
            "  vq 1 (back-end's 2): stopped, never ran\n"
            "memory regions: 70\n"
            "  0x0: 4096 bytes at 0x7000\n"
            "  and 69 more\n"
            "counters: 2 messages, 0 replies, 0 descriptors, 0 waits, 0 "
            "stalls\n"
            "requests:\n"
            "  SET_OWNER: 2 sent, 1 refused, 1 unanswered, answered within 5 "
            "us to 5 us, 99 % within 5 us\n"
            "last messages:\n"
            "  +0.000 ms -> SET_OWNER (0 bytes)\n");
}

TEST(FlightRecord, IsKeptByAnnotation) {
  const FlightRecord record = record_of_a_disk();
  const absl::Status status = annotate(
      annotate(attach(absl::AbortedError("no"), record), "start"), "disk");
  EXPECT_EQ(status.message(), "disk: start: no");
  EXPECT_EQ(flight_record_of(status), to_string(record));
}

TEST(FlightRecord, TheFirstStays) {
  FlightRecord record = record_of_a_disk();
  const std::string first = to_string(record);
  absl::Status status = attach(absl::AbortedError("no"), record);
  record.state = "broken";
  status = attach(status, record);
  EXPECT_EQ(flight_record_of(status), first);
}

TEST(FlightRecord, SuccessHasNone) {
  const absl::Status status = attach(absl::OkStatus(), record_of_a_disk());
  EXPECT_TRUE(status.ok());
  EXPECT_FALSE(has_flight_record(status));
  EXPECT_EQ(flight_record_of(status), "");
}

TEST(FlightRecord, PassesFromOneStatusToAnother) {
  const absl::Status from = attach(absl::AbortedError("a"), record_of_a_disk());
  const absl::Status to = attach(absl::UnavailableError("b"), from);
  EXPECT_EQ(flight_record_of(to), flight_record_of(from));
  EXPECT_EQ(to.message(), "b");
  EXPECT_FALSE(
      has_flight_record(attach(absl::AbortedError("a"), absl::OkStatus())));
}

}  // namespace
}  // namespace vhost
