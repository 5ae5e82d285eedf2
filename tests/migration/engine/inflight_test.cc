// SPDX-License-Identifier: Apache-2.0
// Requests that a back-end leaves in its inflight area, instead of finishing
// them before it stops, are finished by the back-end at the other end: each
// once, and none is lost.
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "tests/migration/engine/model_host.h"
#include "vhostdev/migration.h"

namespace vhost {
namespace {

constexpr auto kLongTime = std::chrono::seconds(20);

class Inflight : public TwoHosts {
 protected:
  Inflight() {
    for (int i = 0; i < 2; ++i) add_disk(std::string(1 << 20, 0x5a));
    source = host("source", kLongTime);
    destination = host("destination", std::chrono::milliseconds(1));
    bring_up();
  }

  // The guest asks its disk for something, and does not get it.
  void ask(size_t i) {
    testing::BlockRing ring = source->ring(i);
    ring.read(3);
    source->vmm->toys[i]->binding.kick(QueueIndex{0});
    ASSERT_TRUE(run_until(
        [this, i] { return source->backends[i]->ring(0).in_flight == 1; }));
  }
  void migrate() {
    MigrationSource::Options options;
    options.compare_ram = true;
    make_ends(options, MigrationDestination::Options());
    start_ends();
    expect_moved();
  }

 private:
  std::unique_ptr<Host> host(absl::string_view name,
                             std::chrono::nanoseconds latency) {
    return std::make_unique<Host>(
        *loop, folder, name, disks,
        [latency](size_t) {
          testing::ModelOptions options;
          options.latency = latency;
          options.vring_base_inflight = true;
          return options;
        },
        /*track_inflight=*/true,
        VhostUserOptions{.extra_protocol_features =
                             uint64_t{1} << kProtocolGetVringBaseInflight});
  }
};

TEST_F(Inflight, ARequestIsFinishedAtTheOtherEnd) {
  ask(0);
  migrate();
  // Long before its first back-end would have.
  EXPECT_LT(leaving->progress().downtime, kLongTime / 2);
  testing::BlockRing ring = destination->ring(0);
  ASSERT_TRUE(run_until([&ring] { return ring.used_index() == 1; }));
  EXPECT_EQ(ring.status(), 0);
  EXPECT_EQ(std::to_integer<int>(*ring.data()), 0x5a);
  EXPECT_EQ(destination->backends[0]->counters().resubmitted, 1u);
  EXPECT_EQ(destination->backends[1]->counters().resubmitted, 0u);
  // Once.
  EXPECT_EQ(destination->backends[0]->counters().requests, 1u);
  EXPECT_EQ(source->backends[0]->counters().requests, 0u);
}

TEST_F(Inflight, NothingInFlightMovesToo) {
  migrate();
  testing::BlockRing ring = destination->ring(1);
  ring.read(3);
  destination->vmm->toys[1]->binding.kick(QueueIndex{0});
  ASSERT_TRUE(run_until([&ring] { return ring.used_index() == 1; }));
  EXPECT_EQ(ring.status(), 0);
  EXPECT_EQ(destination->backends[1]->counters().resubmitted, 0u);
}

}  // namespace
}  // namespace vhost
