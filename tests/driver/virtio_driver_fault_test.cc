// SPDX-License-Identifier: Apache-2.0
//
// VD-25, VD-27: whatever fails, and however often, nothing is left behind.
#include <dirent.h>

#include <fstream>
#include <string>

#include "tests/driver/driver_fixture.h"

namespace vhost {

Holdings Holdings::now() {
  Holdings out;
  DIR* const folder = ::opendir("/proc/self/fd");
  while (folder != nullptr && ::readdir(folder) != nullptr) ++out.fds;
  if (folder != nullptr) ::closedir(folder);
  // Of all mappings those that can be shared with a back-end: the allocator's
  // own come and go.
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:") != std::string::npos) ++out.maps;
  }
  return out;
}

namespace {

using testing::Fault;

class DriverFaultTest : public DriverTest,
                        public ::testing::WithParamInterface<Fault> {
 protected:
  // Resets and starts over a back-end whose n-th verb fails; whether one did.
  // Whatever happened, all that is left is what was there before.
  bool fail_at(size_t n) {
    auto faulty =
        std::make_unique<testing::FaultyOps>(make_ops(), GetParam(), n);
    const auto record = faulty->record();
    make_over(std::move(faulty));
    absl::Status status = driver->reset(kWanted).status();
    if (status.ok()) status = driver->start({.queues = 2}).status();
    const bool hit = record->hit.has_value();
    EXPECT_EQ(status.ok(), !hit) << "verb " << n << ": " << status;
    EXPECT_EQ(driver->running(), !hit);
    if (hit) expect_nothing_runs(*record->hit);
    if (!hit) {
      EXPECT_TRUE(driver->stop(StopMode::kDrain, {}).ok());
    }
    driver = nullptr;
    loop.run_ready();
    return hit;
  }

  void expect_nothing_runs(const std::string& verb) {
    EXPECT_FALSE(driver->acquire(kVq0).ok()) << verb;
    EXPECT_EQ(driver->started().queues, 0u) << verb;
    EXPECT_TRUE(driver->last_stop().returned.empty());
    // Silence is not a promise: rings that the back-end may use stay taken.
    if (GetParam() != Fault::kUnknown) {
      EXPECT_EQ(dma.bytes_in_use(), 0u) << verb;
    }
  }
};

TEST_P(DriverFaultTest, AStartThatFailsAtAnyStepUndoesTheOthers) {
  // Once through, so that what is made on first use exists.
  ASSERT_FALSE(fail_at(1000));
  const Holdings before = Holdings::now();
  size_t n = 0;
  while (fail_at(n)) {
    EXPECT_EQ(Holdings::now(), before) << "verb " << n;
    ++n;
  }
  EXPECT_GE(n, 4u) << "Open, SetFeatures, Configure, Go";
}

INSTANTIATE_TEST_SUITE_P(Faults, DriverFaultTest,
                         ::testing::Values(Fault::kRefused, Fault::kUnknown,
                                           Fault::kLost));

TEST_F(DriverTest, AStartMayBeTriedAgainAfterARefusal) {
  make_reset();
  ops->refuse_next("Go", absl::AbortedError("no"));
  EXPECT_EQ(driver->start({.queues = 2}).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(driver->start({.queues = 2}).ok());
}

// VD-27
TEST_F(DriverTest, AThousandRoundsLeaveNothingBehind) {
  make_running(1);
  ASSERT_TRUE(driver->stop(StopMode::kDrain, {}).ok());
  const Holdings before = Holdings::now();
  for (int round = 0; round < 1000; ++round) {
    ASSERT_TRUE(driver->reset(kWanted).ok());
    ASSERT_TRUE(driver->start({.queues = 1, .depth = 8}).ok());
    auto handle = driver->acquire(kVq0).value();
    submit(handle, 1);
    const auto stopped = driver->stop(StopMode::kCancel, {});
    ASSERT_TRUE(stopped.ok() && stopped->status.ok());
    ASSERT_EQ(stopped->returned.size(), 1u);
    journal->clear();
    loop.run_ready();
  }
  EXPECT_EQ(Holdings::now(), before);
  EXPECT_EQ(dma.bytes_in_use(), 0u);
}

}  // namespace
}  // namespace vhost
