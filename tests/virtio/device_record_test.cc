// SPDX-License-Identifier: Apache-2.0
// What a device tells of itself when asked, and when something fails.
#include "tests/virtio/device_fixture.h"
#include "vhostdev/flight_record.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Record : public DeviceTest {};

TEST_F(Record, BeforeTheDeviceIsConnectedHasNoMemoryAndNoRingThatRan) {
  make();
  const FlightRecord record = dev->flight_record();
  EXPECT_EQ(record.device, "disk");
  EXPECT_EQ(record.state, "created");
  EXPECT_THAT(record.regions, IsEmpty());
  ASSERT_THAT(record.rings, SizeIs(2));
  EXPECT_EQ(record.rings[0].ring.num, 0u);
  EXPECT_FALSE(record.rings[0].avail_index.has_value());
}

TEST_F(Record, OfARunningDeviceHasRingsIndexesAndMemory) {
  make_running();
  set_indexes(kVq1, 9, 7);
  dev->mask(kVq1);

  const FlightRecord record = dev->flight_record();

  EXPECT_EQ(record.state, "running");
  EXPECT_EQ(record.operation, "");
  ASSERT_THAT(record.rings, SizeIs(2));
  EXPECT_TRUE(record.rings[1].started);
  EXPECT_TRUE(record.rings[1].masked);
  EXPECT_FALSE(record.rings[0].masked);
  EXPECT_EQ(record.rings[1].ring.num, 256u);
  EXPECT_EQ(record.rings[1].avail_index, uint16_t{9});
  EXPECT_EQ(record.rings[1].used_index, uint16_t{7});
  ASSERT_THAT(record.regions, SizeIs(1));
  EXPECT_EQ(record.region_count, 1u);
  EXPECT_EQ(record.regions[0].size, kRam);
  EXPECT_THAT(*journal, IsEmpty()) << "the back-end was not asked";
}

TEST_F(Record, HasWhatTheBackEndExchanged) {
  make_ready();
  ASSERT_TRUE(start().ok());
  EXPECT_THAT(dev->flight_record().messages, Contains(HasSubstr("Go ")));
  EXPECT_GT(dev->flight_record().counters.messages, 0u);
}

TEST_F(Record, ListsABoundedNumberOfRegions) {
  BackendTraits traits = testing::like_vhost_user();
  traits.max_memory_slots = 4096;
  std::vector<std::shared_ptr<MemoryRegion>> more;
  for (uint64_t i = 1; i <= 200; ++i) {
    more.push_back(testing::add_memory(memory, 2 * i * kRam, 65536));
  }
  make_running(std::move(traits));
  const FlightRecord record = dev->flight_record();
  EXPECT_EQ(record.region_count, 201u);
  EXPECT_THAT(record.regions, SizeIs(FlightRecord::kMaxRegions));
}

TEST_F(Record, OfTheLossComesWithTheErrorAndSaysWhatRan) {
  make_running();
  set_indexes(kVq0, 5, 5);

  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();

  ASSERT_THAT(events.broken_with, SizeIs(1));
  const std::string text = flight_record_of(events.broken_with[0]);
  EXPECT_THAT(text, HasSubstr("disk: "));
  EXPECT_THAT(text, HasSubstr(", running\n"));
  EXPECT_THAT(text, HasSubstr("vq 0: started"));
  EXPECT_THAT(text, HasSubstr("memory regions: 1\n"));
  EXPECT_EQ(flight_record_of(dev->broken_status()), text);
  const absl::Status refused = start();
  EXPECT_EQ(flight_record_of(refused), text) << "later ones tell of the loss";
  EXPECT_THAT(to_string(dev->flight_record()),
              HasSubstr("broken: UNAVAILABLE: gone\n"));
}

TEST_F(Record, OfARefusalComesWithTheError) {
  make_ready();
  ops->refuse_next("Configure", absl::AbortedError("no"));
  const absl::Status status = start();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(flight_record_of(status), HasSubstr("start in progress\n"));
}

TEST_F(Record, OfAFirstConnectionThatFailsComesWithTheError) {
  make();
  ops->refuse_next("Open", absl::UnavailableError("nobody there"));
  const absl::Status status = init();
  EXPECT_THAT(flight_record_of(status), HasSubstr("created, init in progress"));
}

TEST_F(Record, IsNotMadeForAMistakeOfTheCaller) {
  make();
  const absl::Status status = start();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(has_flight_record(status));
}

}  // namespace
}  // namespace vhost
