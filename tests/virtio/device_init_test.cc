// SPDX-License-Identifier: Apache-2.0
// Connecting, features and the configuration space.
#include <unistd.h>

#include "tests/virtio/device_fixture.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Init : public DeviceTest {
 protected:
  static VhostDev::Options with_config() {
    VhostDev::Options options = options_for();
    options.config_size = 8;
    return options;
  }
  void make_with_config() {
    make(testing::like_vhost_user(), with_config());
    ops->backend.config.resize(8);
    ops->backend.config[1] = std::byte{0x11};
    ASSERT_TRUE(init().ok());
    clear_journals();
  }
  absl::StatusOr<int> config_byte(uint32_t offset) {
    std::byte byte{};
    const absl::Status status = drive([&](Completion done) {
      dev->get_config(offset, std::span(&byte, 1), std::move(done));
    });
    if (!status.ok()) return status;
    return static_cast<int>(byte);
  }
};

TEST_F(Init, IsOneVerb) {
  make();

  ASSERT_TRUE(init().ok());

  EXPECT_THAT(*journal, ElementsAre("Open"));
  EXPECT_EQ(dev->state(), DeviceState::kReady);
  EXPECT_EQ(context.device_count(), 1u);
}

TEST_F(Init, ThatFailsLeavesADeviceThatCanBeConnectedLater) {
  make();
  ops->lose_next("Open", absl::UnavailableError("connect: nobody there"));

  const absl::Status status = init();

  EXPECT_EQ(status,
            absl::UnavailableError("disk: init: connect: nobody there"));
  EXPECT_EQ(dev->state(), DeviceState::kCreated);
  EXPECT_EQ(context.device_count(), 0u);
  EXPECT_THAT(events.broken_with, IsEmpty());
  EXPECT_TRUE(init().ok());
}

TEST_F(Init, NeedsAllMappedQueues) {
  make(testing::like_vhost_user(), options_for(9));

  EXPECT_EQ(init().code(), absl::StatusCode::kInvalidArgument);

  EXPECT_FALSE(ops->open());
}

TEST_F(Init, MayTakeABackEndWithFewerQueuesIfTheGuestUsesNoneOfThem) {
  BackendTraits traits = testing::like_vhost_user();
  traits.max_queues = 1;
  VhostDev::Options options = options_for();
  options.fewer_queues_ok = true;
  make_ready(traits, options);

  const absl::Status both = start();
  guest.queues[1].desc_gpa = 0;

  EXPECT_EQ(both.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(start().ok());
}

TEST_F(Init, RefusesAMapThatNamesABackEndQueueTwice) {
  VhostDev::Options options = options_for();
  options.queues = QueueMap({BackendQueue{1}, BackendQueue{1}});
  make(testing::like_vhost_user(), options);

  EXPECT_EQ(init().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Init, NeedsAConfigurationSpaceIfOneIsWanted) {
  make(testing::like_kernel(), with_config());

  EXPECT_EQ(init().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(Init, NeedsSlotsForAllMemory) {
  testing::add_memory(memory, 1u << 30, 4096);
  BackendTraits traits = testing::like_vhost_user();
  traits.max_memory_slots = 1;
  make(traits);

  EXPECT_EQ(init().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(context.device_count(), 0u);
}

TEST_F(Init, ASuccessorMayNotHaveFewerSlots) {
  make_ready();
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ops->offered.max_memory_slots = 7;

  EXPECT_EQ(init().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(dev->state(), DeviceState::kBroken);
}

TEST_F(Init, ABackEndThatLogsDoesNotBlockMigration) {
  make_ready();

  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  EXPECT_EQ(events.migration_blocker_changes, 0);
}

TEST_F(Init, ABackEndThatCannotLogBlocksMigration) {
  make_ready(testing::like_vdpa());
  loop.run_ready();

  ASSERT_THAT(dev->migration_blockers(), SizeIs(1));
  EXPECT_THAT(dev->migration_blockers()[0], HasSubstr("LOG_ALL"));
  EXPECT_EQ(events.migration_blocker_changes, 1);
}

TEST_F(Init, ABackEndThatTakesNoSharedLogBlocksMigration) {
  BackendTraits traits = testing::like_vhost_user();
  traits.takes_log = false;
  make_ready(traits);

  EXPECT_THAT(dev->migration_blockers(), SizeIs(1));
}

TEST_F(Init, OffersWhatTheBackEndHasAndWhatIsNotInTheTable) {
  make_ready();

  const FeatureSet offered =
      dev->get_features({kFeatureEventIdx, kFeatureInOrder},
                        {kFeatureEventIdx, kFeatureInOrder, 5});

  EXPECT_EQ(offered, FeatureSet({kFeatureEventIdx, 5}));
}

TEST_F(Init, AcknowledgedFeaturesAddUpUntilTheyAreCleared) {
  make_ready();

  ASSERT_TRUE(
      dev->ack_features({kFeatureEventIdx}, {kFeatureEventIdx, 5}).ok());
  ASSERT_TRUE(dev->ack_features({kFeatureVersion1}, {kFeatureVersion1}).ok());
  EXPECT_EQ(dev->acked_features(),
            FeatureSet({kFeatureEventIdx, kFeatureVersion1}));
  dev->clear_acked_features();

  EXPECT_TRUE(dev->acked_features().empty());
}

TEST_F(Init, AFeatureThatIsNotOfferedCannotBeAcknowledged) {
  make_ready();

  const absl::Status status =
      dev->ack_features({kFeatureInOrder}, {kFeatureInOrder});

  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("IN_ORDER"));
}

TEST_F(Init, AccessPlatformIsNotPassedOnWithoutAnIommu) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.set(kFeatureAccessPlatform);
  make_ready(traits);
  ASSERT_TRUE(dev->ack_features({kFeatureAccessPlatform, kFeatureVersion1},
                                {kFeatureAccessPlatform, kFeatureVersion1})
                  .ok());

  ASSERT_TRUE(start().ok());

  EXPECT_EQ(ops->backend.features, FeatureSet({kFeatureVersion1}));
}

TEST_F(Init, ReadsTheConfigurationOnTheWay) {
  make_with_config();

  EXPECT_EQ(config_byte(1).value_or(-1), 0x11);

  EXPECT_THAT(*journal, IsEmpty());
}

TEST_F(Init, AChangedConfigurationIsReadAgainOnce) {
  make_with_config();
  ops->change_config(1, {std::byte{0x22}});

  EXPECT_EQ(config_byte(1).value_or(-1), 0x22);
  EXPECT_EQ(config_byte(1).value_or(-1), 0x22);

  EXPECT_THAT(*journal, ElementsAre("GetConfig 0+8"));
}

TEST_F(Init, AWrittenConfigurationIsReadAgain) {
  make_with_config();
  const std::byte value{0x33};
  const absl::Status status = drive([&](Completion done) {
    dev->set_config(1, std::span(&value, 1), ConfigWriter::kDriver,
                    std::move(done));
  });

  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(config_byte(1).value_or(-1), 0x33);
  EXPECT_THAT(*journal, ElementsAre("SetConfig 1+1 driver", "GetConfig 0+8"));
}

TEST_F(Init, ANewConnectionHasAConfigurationOfItsOwn) {
  make_with_config();
  ops->lose(absl::UnavailableError("gone"));
  loop.run_ready();
  ops->backend.config[1] = std::byte{0x44};
  ASSERT_TRUE(init().ok());

  EXPECT_EQ(config_byte(1).value_or(-1), 0x44);
}

TEST_F(Init, PastTheConfigurationThereIsNothing) {
  make_with_config();

  EXPECT_EQ(config_byte(8).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Init, AChangeWhileItIsReadIsNotMissed) {
  make_with_config();
  ops->change_config(1, {std::byte{0x22}});
  ops->completes = testing::Completes::kOnRequest;
  std::byte byte{};
  Outcome read;
  dev->get_config(1, std::span(&byte, 1), read.completion());

  ops->change_config(1, {std::byte{0x55}});
  while (ops->complete_next()) loop.run_ready();

  EXPECT_TRUE(read.status().ok());
  EXPECT_EQ(byte, std::byte{0x55});
  EXPECT_THAT(*journal, ElementsAre("GetConfig 0+8", "GetConfig 0+8"));
}

TEST_F(Init, AConfigurationThatChangesAllTheTimeHasOneDeadline) {
  make_with_config();
  ops->change_config(1, {std::byte{0x22}});
  ops->completes = testing::Completes::kOnRequest;
  std::byte byte{};
  Outcome read;
  dev->get_config(1, std::span(&byte, 1), read.completion());
  loop.advance(std::chrono::seconds(20));
  ops->change_config(1, {std::byte{0x55}});
  ASSERT_TRUE(ops->complete_next());
  loop.run_ready();
  ASSERT_EQ(ops->under_way(), 1);

  loop.advance(std::chrono::seconds(10));

  EXPECT_EQ(read.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(Init, AMaskedConfigurationInterruptWaits) {
  make_running(testing::like_vdpa());
  loop.run_ready();
  events.config_changes = 0;
  dev->mask_config();
  const uint64_t one = 1;
  ASSERT_EQ(::write(ops->backend.config_call.get(), &one, sizeof(one)), 8);
  loop.run_ready();
  EXPECT_EQ(events.config_changes, 0);

  dev->unmask_config();
  loop.run_ready();

  EXPECT_EQ(events.config_changes, 1);
  EXPECT_FALSE(dev->config_pending());
}

}  // namespace
}  // namespace vhost
