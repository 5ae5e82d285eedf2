// SPDX-License-Identifier: Apache-2.0
//
// Who owns a queue, and how it is notified.
#include <optional>
#include <thread>

#include "tests/driver/driver_fixture.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
constexpr Duration kSecond = std::chrono::seconds(1);

// VD-40
TEST_F(DriverTest, AQueueHasOneOwner) {
  make_running();
  auto first = driver->acquire(kVq0);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(driver->is_acquired(kVq0));
  EXPECT_EQ(driver->acquire(kVq0).status().code(), kExhausted);
  EXPECT_EQ(driver->acquire(QueueIndex{7}).status().code(), kInvalid);
  EXPECT_EQ(driver->acquire_any(QueueIndex{7}).status().code(), kInvalid);
  auto second = driver->acquire_any();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->index(), kVq1);
  EXPECT_EQ(driver->acquire_any().status().code(), kExhausted);
  EXPECT_TRUE(first->release().ok());
  EXPECT_FALSE(first->valid());
  EXPECT_TRUE(driver->acquire(kVq0).ok());
}

// VD-40
TEST_F(DriverTest, AHandleGivesItsQueueBackWhenDestroyed) {
  make_running();
  { const auto handle = driver->acquire(kVq0).value(); }
  EXPECT_FALSE(driver->is_acquired(kVq0));
  std::optional<QueueHandle> kept = driver->acquire(kVq0).value();
  QueueHandle moved = *std::move(kept);
  kept.reset();
  EXPECT_TRUE(driver->is_acquired(kVq0));
}

// VD-40
TEST_F(DriverTest, OnlyTheOwnersThreadReleasesAndKicks) {
  make_running();
  auto handle = driver->acquire(kVq0).value();
  std::thread other([&handle] {
    EXPECT_EQ(handle.release().code(), kPrecondition);
    EXPECT_EQ(handle.kick().code(), kPrecondition);
  });
  other.join();
  EXPECT_TRUE(handle.valid());
  EXPECT_TRUE(driver->is_acquired(kVq0));
  EXPECT_TRUE(handle.kick().ok());
}

// VD-40
TEST_F(DriverTest, IsNotStoppedUnderAnotherThreadsFeet) {
  make_running();
  std::optional<QueueHandle> handle;
  std::thread other([&] { handle = driver->acquire(kVq1).value(); });
  other.join();
  const auto refused = driver->stop(StopMode::kCancel, {});
  EXPECT_EQ(refused.status().code(), kPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("vq 1"));
  EXPECT_TRUE(driver->running());
  EXPECT_TRUE(driver->acquire(kVq0).ok()) << "all as before";
  EXPECT_EQ(driver->reset(kWanted).status().code(), kPrecondition);
  handle.reset();
  EXPECT_TRUE(driver->is_acquired(kVq1)) << "nobody else gives it back";
}

TEST_F(DriverTest, NobodyAcquiresBeforeTheStartOrAfterTheStop) {
  make_reset();
  EXPECT_EQ(driver->acquire(kVq0).status().code(), kPrecondition);
  ASSERT_TRUE(driver->start({.queues = 1}).ok());
  ASSERT_TRUE(driver->stop(StopMode::kDrain, kSecond).ok());
  EXPECT_EQ(driver->acquire(kVq0).status().code(), kPrecondition);
  EXPECT_EQ(driver->acquire_any().status().code(), kPrecondition);
}

TEST_F(DriverTest, AHandleOutlivesTheDriverWithoutHarm) {
  make_running();
  auto handle = driver->acquire(kVq0).value();
  submit(handle, 1);
  driver = nullptr;
  EXPECT_TRUE(handle.lost());
  EXPECT_EQ(handle.ring().begin(1, 2).status().code(), kPrecondition);
  EXPECT_TRUE(handle.kick().ok());
  EXPECT_FALSE(handle.call_fd().valid());
}

TEST_F(DriverTest, KicksGoStraightToTheBackEnd) {
  make_running(1);
  ops->take_kick(BackendQueue{0});
  auto handle = driver->acquire(kVq0).value();
  RingDevice device = device_of(kVq0);
  device.enable_notifications();
  ASSERT_TRUE(handle.kick().ok());
  EXPECT_FALSE(ops->take_kick(BackendQueue{0})) << "nothing was submitted";
  submit(handle, 1);
  ASSERT_TRUE(handle.kick().ok());
  EXPECT_TRUE(ops->take_kick(BackendQueue{0}));
}

TEST_F(DriverTest, ABackEndThatPollsIsNotKicked) {
  options.backend_polls = true;
  options.no_call_notifiers = true;
  make_reset();
  ASSERT_TRUE(driver->start({.queues = 1, .depth = 8}).ok());
  EXPECT_THAT(*journal, Contains(HasSubstr("kick:polling")));
  EXPECT_THAT(*journal, Contains(HasSubstr("call:polling")));
  auto handle = driver->acquire(kVq0).value();
  EXPECT_FALSE(handle.call_fd().valid());
  submit(handle, 1);
  EXPECT_TRUE(handle.kick().ok());
}

TEST_F(DriverTest, SignalsOfTheBackEndReachTheOwner) {
  make_running(1);
  auto handle = driver->acquire(kVq0).value();
  handle.take_signal();
  EXPECT_FALSE(handle.take_signal());
  ASSERT_TRUE(ops->signal_call(BackendQueue{0}));
  EXPECT_TRUE(handle.take_signal());
  EXPECT_FALSE(handle.take_signal());
}

}  // namespace
}  // namespace vhost
