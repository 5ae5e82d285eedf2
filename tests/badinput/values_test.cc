// SPDX-License-Identifier: Apache-2.0
// Well-formed replies with values that make no sense, or not any more; and
// guest memory that no back-end can take.
#include <cstring>
#include <limits>

#include "tests/badinput/footprint.h"
#include "tests/badinput/stage.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kGetFeatures = 1;
constexpr uint32_t kGetQueueNum = 17;
constexpr uint32_t kGetConfig = 24;
constexpr uint32_t kGetMaxMemSlots = 36;
constexpr uint32_t kGetStatus = 40;
constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr unsigned kBlkConfigWce = 11;
constexpr uint64_t kMiB = 1 << 20;

class Value : public ::testing::Test {
 protected:
  ~Value() override {
    stage.reset();
    EXPECT_EQ(Footprint::now(), before);
  }

  // Fails at once, with this code and text, and leaves the device unconnected.
  void expect_no_init(absl::StatusCode code, absl::string_view text) {
    const Stage::Outcome outcome = stage->init();
    EXPECT_EQ(outcome.status.code(), code) << outcome.status;
    EXPECT_THAT(std::string(outcome.status.message()),
                HasSubstr(std::string(text)));
    EXPECT_THAT(std::string(outcome.status.message()),
                ::testing::StartsWith("disk: init: "));
    EXPECT_EQ(outcome.took, Duration(0));
    EXPECT_EQ(stage->dev->state(), DeviceState::kCreated);
    stage->meddler->forge_nothing();
  }
  void expect_no_start(absl::StatusCode code, absl::string_view text) {
    const Stage::Outcome outcome = stage->start();
    EXPECT_EQ(outcome.status.code(), code) << outcome.status;
    EXPECT_THAT(std::string(outcome.status.message()),
                HasSubstr(std::string(text)));
    EXPECT_EQ(outcome.took, Duration(0));
    EXPECT_EQ(stage->dev->state(), DeviceState::kReady);
  }

  const Footprint before = Footprint::now();
  std::unique_ptr<Stage> stage = std::make_unique<Stage>();
};

TEST_F(Value, NoQueuesAtAllIsMalformed) {
  stage->meddler->forge(kGetQueueNum, uint64_t{0});
  expect_no_init(absl::StatusCode::kDataLoss, "GET_QUEUE_NUM");
  stage->recover();
}

TEST_F(Value, FewerQueuesThanTheDeviceHasAreNotEnough) {
  stage->meddler->forge(kGetQueueNum, uint64_t{1});
  expect_no_init(absl::StatusCode::kInvalidArgument,
                 "back-end queue 1 of 1 queues");
  stage->recover();
}

TEST_F(Value, MoreQueuesThanThereAreNumbersForAreIgnored) {
  stage->meddler->forge(kGetQueueNum, kHuge);
  stage->run();
  EXPECT_EQ(stage->dev->traits().max_queues, 256u);
}

TEST_F(Value, NoMemorySlotsAtAllAreTooFew) {
  stage->meddler->forge(kGetMaxMemSlots, uint64_t{0});
  expect_no_init(absl::StatusCode::kResourceExhausted, "slots");
  stage->recover();
}

TEST_F(Value, MoreMemorySlotsThanThereCanBeMemoryAreIgnored) {
  stage->meddler->forge(kGetMaxMemSlots, kHuge);
  stage->run();
  EXPECT_EQ(stage->context.free_memory_slots(), kHuge - 1);
}

TEST_F(Value, ConfigurationOfAnotherPlaceIsMalformed) {
  const uint32_t elsewhere[] = {4, 60, 0};
  Bytes payload(sizeof(elsewhere) + 60);
  std::memcpy(payload.data(), elsewhere, sizeof(elsewhere));
  stage->meddler->forge(kGetConfig, payload);
  expect_no_init(absl::StatusCode::kDataLoss, "GET_CONFIG");
  stage->recover();
}

TEST_F(Value, ConfigurationOfAnotherSizeThanItSaysIsMalformed) {
  const uint32_t longer[] = {0, 61, 0};
  Bytes payload(sizeof(longer) + 60);
  std::memcpy(payload.data(), longer, sizeof(longer));
  stage->meddler->forge(kGetConfig, payload);
  expect_no_init(absl::StatusCode::kDataLoss, "GET_CONFIG");
  stage->recover();
}

TEST_F(Value, NoFeaturesAtAllAreTooFew) {
  stage->meddler->forge(kGetFeatures, uint64_t{0});
  expect_no_init(absl::StatusCode::kUnimplemented, "CONFIG");
  stage->recover();
}

TEST_F(Value, AStatusThatDoesNotStickIsARefusal) {
  ASSERT_TRUE(stage->init().status.ok());
  stage->meddler->forge(kGetStatus, uint64_t{3});
  expect_no_start(absl::StatusCode::kAborted, "GET_STATUS: device status");
  stage->meddler->forge_nothing();
  stage->recover();
}

// The guest uses what the successor of its back-end does not have.
TEST_F(Value, AFeatureThatIsWithdrawnForbidsTheConnection) {
  stage->run();
  testing::ModelOptions options;
  options.without_features.set(kBlkConfigWce);
  stage->meddler->hang_up();
  stage->meddler->replace_model(options);
  stage->settle();
  EXPECT_EQ(stage->dev->state(), DeviceState::kBroken);

  const Stage::Outcome outcome =
      stage->drive([&](Completion done) { stage->dev->init(std::move(done)); });

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr("disk: init: back-end lacks CONFIG_WCE"));
  stage->meddler->replace_model({});
  stage->recover();
}

TEST_F(Value, QueuesThatAreWithdrawnForbidTheConnection) {
  stage->run();
  testing::ModelOptions options;
  options.queues = 1;
  stage->meddler->hang_up();
  stage->meddler->replace_model(options);
  stage->settle();
  EXPECT_EQ(stage->dev->state(), DeviceState::kBroken);

  const Stage::Outcome outcome = stage->init();

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("disk: init: "));
  stage->meddler->replace_model({});
  stage->recover();
}

TEST_F(Value, AProtocolFeatureThatIsWithdrawnForbidsTheConnection) {
  stage->run();
  testing::ModelOptions options;
  options.without_protocol_features = uint64_t{1} << kProtocolConfig;
  stage->meddler->hang_up();
  stage->meddler->replace_model(options);
  stage->settle();

  const Stage::Outcome outcome = stage->init();

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr("disk: init: back-end does not offer CONFIG"));
  stage->meddler->replace_model({});
  stage->recover();
}

TEST_F(Value, MemorySlotsThatAreWithdrawnForbidTheConnection) {
  stage->run();
  testing::ModelOptions options;
  options.memory_slots = 100;
  stage->meddler->hang_up();
  stage->meddler->replace_model(options);
  stage->settle();

  const Stage::Outcome outcome = stage->init();

  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr("disk: init: GET_MAX_MEM_SLOTS: 100 memory slots"));
}

TEST_F(Value, MemoryWithoutADescriptorCannotHoldARing) {
  ASSERT_TRUE(stage->init().status.ok());
  auto region = MemoryRegion::create_private("ram", kMiB);
  ASSERT_TRUE(region.ok());
  MemorySection section;
  section.size = kMiB;
  section.region = *region;
  stage->memory.begin();
  ASSERT_TRUE(stage->memory.remove(0).ok());
  ASSERT_TRUE(stage->memory.add(section).ok());
  ASSERT_TRUE(stage->memory.commit().ok());

  expect_no_start(absl::StatusCode::kInvalidArgument, "disk: start: vq 0: ");
}

class FewSlots : public Value {
 protected:
  // A back-end with these options, and `count` sections of memory.
  void make(testing::ModelOptions options, int count) {
    stage.reset();
    Stage::Options with;
    with.model = std::move(options);
    stage = std::make_unique<Stage>(std::move(with));
    for (int i = 1; i < count; ++i) {
      const uint64_t gpa = static_cast<uint64_t>(i) * 16 * kMiB;
      ASSERT_TRUE(stage->memory.add(stage->dimm(gpa)).ok());
    }
  }
  static testing::ModelOptions without_slots() {
    testing::ModelOptions out;
    out.without_protocol_features = uint64_t{1} << kProtocolConfigureMemSlots;
    return out;
  }
};

TEST_F(FewSlots, EightSectionsFitATable) {
  make(without_slots(), 8);
  stage->recover();
}

TEST_F(FewSlots, NineSectionsDoNot) {
  make(without_slots(), 9);
  expect_no_init(absl::StatusCode::kResourceExhausted, "9");
}

TEST_F(FewSlots, MoreSectionsThanSlotsDoNotFit) {
  testing::ModelOptions two;
  two.memory_slots = 2;
  make(two, 3);
  expect_no_init(absl::StatusCode::kResourceExhausted, "3");
}

TEST_F(FewSlots, ASectionTooManyIsRefusedAndTheDeviceRunsOn) {
  make(without_slots(), 8);
  stage->run();

  const absl::Status refused = stage->memory.add(stage->dimm(512 * kMiB));
  stage->settle();

  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("disk: "));
  EXPECT_EQ(stage->dev->state(), DeviceState::kRunning);
  EXPECT_THAT(stage->events.refused_memory, ::testing::SizeIs(1));
}

}  // namespace
}  // namespace vhost::badinput
