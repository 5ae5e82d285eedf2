// SPDX-License-Identifier: Apache-2.0
//
// A driver that goes on on another host.
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "tests/driver/driver_fixture.h"
#include "tests/driver/moving_host.h"
#include "vhostdev/driver_state.h"

namespace vhost {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

class DriverMove : public DriverTest {
 protected:
  // Requests through queue 0, and one in flight that the device has not seen.
  void make_used() {
    make_running();
    handle = driver->acquire(kVq0).value();
    RingDevice device = device_of(kVq0);
    for (uint64_t i = 0; i < 5; ++i) {
      submit(handle, i);
      ASSERT_TRUE(handle.kick().ok());
      device.complete(device.pop()->head, 0);
      std::array<RingCompletion, 1> done;
      ASSERT_EQ(handle.ring().poll(done).value(), 1u);
    }
    submit(handle, 99);
    ASSERT_TRUE(handle.kick().ok());
  }

  absl::Status stop_device() {
    stand_at(kVq0, 5);
    stand_at(kVq1, 0);
    return driver->device().run(
        [this](Completion done) {
          driver->device().stop(StopReason::kVmPause, std::move(done));
        },
        std::chrono::seconds(1));
  }

  // The other host, with its memory; its driver is connected.
  void make_there() {
    there = std::make_unique<MovingHost>(loop);
    ASSERT_TRUE(there->take_memory(dma).ok());
    BackendTraits traits = testing::like_vhost_user();
    traits.features = traits.features - lacks;
    auto fake = std::make_unique<testing::FakeVhostOps>(traits);
    ops_there = fake.get();
    VirtioDriver::Options there_options = options;
    there_options.name = "disk";
    driver_there = std::make_unique<VirtioDriver>(
        there->context, there->dma, std::move(fake), there_options);
    ASSERT_TRUE(driver_there->reset(kWanted).ok());
  }

  void make_moving() {
    ASSERT_NO_FATAL_FAILURE(make_used());
    ASSERT_TRUE(stop_device().ok());
    auto saved = driver->save();
    ASSERT_TRUE(saved.ok()) << saved.status();
    state = *std::move(saved);
    ASSERT_NO_FATAL_FAILURE(make_there());
  }

  QueueHandle handle;
  DriverState state;
  FeatureSet lacks;  // Of what the device offers there.
  std::unique_ptr<MovingHost> there;
  testing::FakeVhostOps* ops_there = nullptr;
  std::unique_ptr<VirtioDriver> driver_there;
};

TEST_F(DriverMove, GoesOnWhereItStood) {
  ASSERT_NO_FATAL_FAILURE(make_moving());
  EXPECT_EQ(state.queues[0].position, VringBase{5});
  const absl::Status restored = driver_there->restore(state);
  ASSERT_TRUE(restored.ok()) << restored;
  EXPECT_TRUE(driver_there->running());
  EXPECT_EQ(driver_there->negotiated().features, driver->negotiated().features);
  EXPECT_TRUE(driver_there->has(kFeatureEventIdx));
  EXPECT_EQ(driver_there->started().queues, 2u);
  EXPECT_EQ(driver_there->started().depth, 8u);
  // Its back-end has been asked nothing.
  EXPECT_EQ(driver_there->device().state(), DeviceState::kReady);

  auto queue = driver_there->acquire(kVq0);
  ASSERT_TRUE(queue.ok()) << queue.status();
  EXPECT_EQ(queue->ring().in_flight(), 1u);
  ASSERT_TRUE(driver_there->device()
                  .run(
                      [this](Completion done) {
                        driver_there->device().start(std::move(done));
                      },
                      std::chrono::seconds(1))
                  .ok());
  const testing::FakeQueue& there_queue = ops_there->backend.queues[0];
  EXPECT_EQ(there_queue.addr->desc.gpa, state.queues[0].ring_gpa);
  EXPECT_EQ(there_queue.base, VringBase{5});
  RingDevice device(
      {.num = there_queue.num,
       .desc = reinterpret_cast<std::byte*>(there_queue.addr->desc.user),
       .avail = reinterpret_cast<std::byte*>(there_queue.addr->avail.user),
       .used = reinterpret_cast<std::byte*>(there_queue.addr->used.user)},
      true, 5);
  device.complete(device.pop()->head, 0);
  std::array<RingCompletion, 1> done;
  ASSERT_EQ(queue->ring().poll(done).value(), 1u);
  EXPECT_EQ(done[0].cookie, 99u);
  submit(*queue, 100);
  ASSERT_TRUE(queue->kick().ok());
  EXPECT_EQ(device.avail_index(), 7);
  EXPECT_THAT(device.complaints, ::testing::IsEmpty());
}

TEST_F(DriverMove, StaysWhereItIsAllTheSame) {
  ASSERT_NO_FATAL_FAILURE(make_moving());
  ASSERT_TRUE(driver->device()
                  .run(
                      [this](Completion done) {
                        driver->device().start(std::move(done));
                      },
                      std::chrono::seconds(1))
                  .ok());
  EXPECT_EQ(handle.ring().in_flight(), 1u);
  submit(handle, 100);
  EXPECT_TRUE(handle.kick().ok());
}

TEST_F(DriverMove, OnlyAStoppedDeviceOfARunningDriverIsSaved) {
  make_reset();
  EXPECT_EQ(driver->save().status().code(), kPrecondition);
  ASSERT_TRUE(driver->start({.queues = 1, .depth = 8}).ok());
  const auto running = driver->save();
  EXPECT_EQ(running.status().code(), kPrecondition);
  EXPECT_THAT(std::string(running.status().message()),
              HasSubstr("disk: save: the driver is running, its device"));
  absl::StatusOr<DriverState> elsewhere = absl::UnknownError("no thread");
  std::thread([&] { elsewhere = driver->save(); }).join();
  EXPECT_EQ(elsewhere.status().code(), kPrecondition);
  lose_backend();
  EXPECT_EQ(driver->save().status().code(), kPrecondition);
}

TEST_F(DriverMove, OnlyADriverThatNeverStartedIsRestored) {
  ASSERT_NO_FATAL_FAILURE(make_moving());
  EXPECT_EQ(driver->restore(state).code(), kPrecondition);
  ASSERT_TRUE(driver_there->restore(state).ok());
  EXPECT_EQ(driver_there->restore(state).code(), kPrecondition);
  EXPECT_EQ(driver_there->start({.queues = 1, .depth = 8}).status().code(),
            kPrecondition);
}

TEST_F(DriverMove, ABrokenQueueIsNotSaved) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  device_of(kVq0).write_used_index(77);
  std::array<RingCompletion, 1> done;
  EXPECT_FALSE(handle.ring().poll(done).ok());
  device_of(kVq0).write_used_index(5);
  ASSERT_TRUE(stop_device().ok());
  const auto saved = driver->save();
  EXPECT_EQ(saved.status().code(), kDataLoss);
  EXPECT_THAT(std::string(saved.status().message()), HasSubstr("vq 0"));
}

TEST_F(DriverMove, FeaturesThatTheDeviceLacksAreNamed) {
  ASSERT_NO_FATAL_FAILURE(make_used());
  ASSERT_TRUE(stop_device().ok());
  state = driver->save().value();
  lacks = {kFeatureEventIdx};
  ASSERT_NO_FATAL_FAILURE(make_there());
  const absl::Status refused = driver_there->restore(state);
  EXPECT_EQ(refused.code(), kPrecondition);
  EXPECT_EQ(refused.message(), "disk: restore: the device lacks EVENT_IDX");
  // It can be started as if nothing had been.
  EXPECT_TRUE(driver_there->start({.queues = 1, .depth = 8}).ok());
}

TEST_F(DriverMove, MemoryThatWasNotMovedIsNoticed) {
  ASSERT_NO_FATAL_FAILURE(make_moving());
  std::memset(there->memory.translate(state.queues[0].ring_gpa,
                                      split_ring_layout(8).total),
              0, split_ring_layout(8).total);
  const absl::Status refused = driver_there->restore(state);
  EXPECT_EQ(refused.code(), kDataLoss);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("vq 0: state of a split ring: the available index"));
  EXPECT_EQ(there->dma.bytes_in_use(), 0u);
}

TEST_F(DriverMove, AQueueIsHandedToAnotherThread) {
  make_running();
  handle = driver->acquire(kVq0).value();
  absl::Status before;
  absl::Status taken;
  absl::Status after;
  std::thread([&] {
    before = handle.kick();
    taken = handle.take_over();
    after = handle.kick();
    EXPECT_TRUE(handle.release().ok());
  }).join();
  EXPECT_EQ(before.code(), kPrecondition);
  EXPECT_TRUE(taken.ok());
  EXPECT_TRUE(after.ok());
  handle = driver->acquire(kVq0).value();
  ASSERT_TRUE(driver->stop(StopMode::kCancel, Duration(0)).ok());
  EXPECT_EQ(handle.take_over().code(), kPrecondition);
}

struct Damage {
  const char* name;
  std::function<void(DriverState&)> make;
};

class DriverMalice : public DriverMove,
                     public ::testing::WithParamInterface<Damage> {};

TEST_P(DriverMalice, IsRefusedAndNothingHappened) {
  ASSERT_NO_FATAL_FAILURE(make_moving());
  const DriverState sound = state;
  GetParam().make(state);
  const absl::Status refused = driver_there->restore(state);
  EXPECT_EQ(refused.code(), kInvalid) << refused;
  EXPECT_FALSE(driver_there->running());
  EXPECT_EQ(there->dma.bytes_in_use(), 0u);
  EXPECT_TRUE(driver_there->restore(sound).ok());
}

INSTANTIATE_TEST_SUITE_P(
    AState, DriverMalice,
    ::testing::Values(
        Damage{"WithoutQueues", [](DriverState& s) { s.queues.clear(); }},
        Damage{"WithMoreQueues", [](DriverState& s) { s.queues.resize(3); }},
        Damage{"WithMoreFixedOnes", [](DriverState& s) { s.fixed = 3; }},
        Damage{"OfDepth0", [](DriverState& s) { s.depth = 0; }},
        Damage{"OfDepth9", [](DriverState& s) { s.depth = 9; }},
        Damage{"OfDepth65536", [](DriverState& s) { s.depth = 65536; }},
        Damage{"WithTablesAndNoFeature",
               [](DriverState& s) { s.indirect_entries = 3; }},
        Damage{"WithoutVersion1",
               [](DriverState& s) { s.features.clear(kFeatureVersion1); }},
        Damage{"OfAPackedRing",
               [](DriverState& s) { s.features.set(kFeatureRingPacked); }},
        Damage{"BehindAnIommu",
               [](DriverState& s) { s.features.set(kFeatureAccessPlatform); }},
        Damage{
            "ThatStandsNowhere",
            [](DriverState& s) { s.queues[0].position = VringBase{0x10005}; }},
        Damage{"ThatStandsBehind",
               [](DriverState& s) { s.queues[0].position = VringBase{4}; }},
        Damage{"ThatStandsInFront",
               [](DriverState& s) { s.queues[0].position = VringBase{7}; }},
        Damage{
            "WithARingElsewhere",
            [](DriverState& s) { s.queues[0].ring_gpa += uint64_t{1} << 40; }},
        Damage{"WithARingInARing",
               [](DriverState& s) {
                 s.queues[1].ring_gpa = s.queues[0].ring_gpa;
               }},
        Damage{"WithDescriptorsThatAreNotThere",
               [](DriverState& s) { s.queues[0].ring.chains[0] = 8; }}),
    [](const ::testing::TestParamInfo<Damage>& damage) {
      return std::string(damage.param.name);
    });

}  // namespace
}  // namespace vhost
