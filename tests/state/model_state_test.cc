// SPDX-License-Identifier: Apache-2.0
// States of the model back-end, over real sockets and pipes: whole ones, and
// all that a back-end may do wrong.
#include <gmock/gmock.h>

#include "tests/badinput/footprint.h"
#include "tests/fakes/sanitizer.h"
#include "tests/state/model_rig.h"

namespace vhost {
namespace {

using ::testing::HasSubstr;

using Code = absl::StatusCode;
using Fault = testing::ModelStateFault;
using Channel = testing::ModelStateChannel;
using testing::ModelStateOptions;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr auto kShort = std::chrono::milliseconds(50);

class ModelState : public ::testing::Test {
 protected:
  ~ModelState() override {
    rig.reset();
    EXPECT_EQ(badinput::Footprint::now().fds, descriptors_);
  }

  void make(ModelStateOptions state) { rig.emplace(vmm, std::move(state)); }
  void make_faulty(Fault fault, uint64_t after = 0, uint64_t size = 4 * kMiB) {
    make({.size = size, .fault = fault, .fault_after = after});
  }

  StateVmm vmm;
  std::optional<ModelRig> rig;
  ComparingSink sink;

 private:
  const size_t descriptors_ = badinput::Footprint::now().fds;
};

struct Shape {
  const char* name;
  uint64_t size;
  Channel channel = Channel::kTheirs;
  bool blocks_socket = false;
};

class WholeState : public ModelState,
                   public ::testing::WithParamInterface<Shape> {
 protected:
  void SetUp() override {
    make({.size = GetParam().size,
          .channel = GetParam().channel,
          .blocks_socket = GetParam().blocks_socket});
  }
};

TEST_P(WholeState, IsSaved) {
  const absl::Status status = rig->save(sink);

  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(sink.bytes, GetParam().size);
  EXPECT_TRUE(sink.same);
  EXPECT_TRUE(sink.ended);
  EXPECT_EQ(rig->report().vouched, 1u);
  EXPECT_TRUE(rig->start().ok());
}

TEST_P(WholeState, IsLoaded) {
  testing::MemoryStateSource source(
      testing::model_state_bytes(0, GetParam().size));

  const absl::Status status = rig->load(source);

  EXPECT_TRUE(status.ok()) << status;
  const testing::ModelStateReport report = rig->report();
  EXPECT_EQ(report.loaded, GetParam().size);
  EXPECT_TRUE(report.load_ended);
  EXPECT_TRUE(report.load_matches);
  EXPECT_EQ(report.vouched, 1u);
  EXPECT_TRUE(rig->start().ok());
}

INSTANTIATE_TEST_SUITE_P(
    Model, WholeState,
    ::testing::Values(Shape{"Empty", 0}, Shape{"OneByte", 1},
                      Shape{"APageMoreThanThePipe", kMiB + 4096},
                      Shape{"Large", 40 * kMiB},
                      Shape{"OfOneThread", 4 * kMiB, Channel::kTheirs, true},
                      Shape{"ThroughTheirPipe", 4 * kMiB, Channel::kPipe},
                      Shape{"ThroughTheirSocket", 4 * kMiB, Channel::kSocket},
                      Shape{"EmptyThroughTheirPipe", 0, Channel::kPipe}),
    [](const auto& param) { return std::string(param.param.name); });

TEST_F(ModelState, AGibibytePassesThrough) {
  constexpr uint64_t kSize = (testing::kSanitizer ? 64 : 1024) * kMiB;
  make({.size = kSize});
  EXPECT_TRUE(rig->save(sink).ok());
  EXPECT_EQ(sink.bytes, kSize);
  EXPECT_TRUE(sink.same);
  EXPECT_TRUE(sink.ended);
}

TEST_F(ModelState, OneThatMayNotBeginSaysSo) {
  make_faulty(Fault::kRefuses);
  EXPECT_EQ(rig->save(sink).code(), Code::kAborted);
  EXPECT_FALSE(sink.ended);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, OneThatIsSavedInPartIsNoState) {
  make_faulty(Fault::kEndsEarly, kMiB + 7);
  const absl::Status status = rig->save(sink);
  EXPECT_EQ(status.code(), Code::kAborted) << status;
  EXPECT_EQ(sink.bytes, kMiB + 7);
  EXPECT_FALSE(sink.ended);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, OneThatFailsTheCheckIsNoState) {
  make_faulty(Fault::kFailsCheck);
  EXPECT_EQ(rig->save(sink).code(), Code::kAborted);
  EXPECT_FALSE(sink.ended);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, OneThatIsNeverVouchedForIsGivenUp) {
  make_faulty(Fault::kNeverChecks);
  rig->limits.check_timeout = kShort;
  EXPECT_EQ(rig->save(sink).code(), Code::kDeadlineExceeded);
  EXPECT_FALSE(sink.ended);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, OneThatNeverComesIsGivenUp) {
  make_faulty(Fault::kFallsSilent);
  rig->limits.idle_timeout = kShort;
  EXPECT_EQ(rig->save(sink).code(), Code::kDeadlineExceeded);
  EXPECT_FALSE(sink.ended);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, OneThatStopsComingIsGivenUp) {
  make_faulty(Fault::kFallsSilent, kMiB);
  rig->limits.idle_timeout = kShort;
  const absl::Status status = rig->save(sink);
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("after 1048576 bytes"));
  EXPECT_FALSE(sink.ended);
}

TEST_F(ModelState, OneThatNeverEndsIsCut) {
  make_faulty(Fault::kNeverEnds);
  rig->limits.most_bytes = 8 * kMiB;
  EXPECT_EQ(rig->save(sink).code(), Code::kResourceExhausted);
  EXPECT_LE(sink.bytes, 8 * kMiB);
  EXPECT_FALSE(sink.ended);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, ABackEndThatDiesWhileItSavesIsLost) {
  make_faulty(Fault::kDies, kMiB);
  EXPECT_EQ(rig->save(sink).code(), Code::kUnavailable);
  EXPECT_FALSE(sink.ended);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, ABackEndThatDiesWhileItLoadsIsLost) {
  make_faulty(Fault::kDies, kMiB);
  testing::MemoryStateSource source(testing::model_state_bytes(0, 4 * kMiB));
  EXPECT_EQ(rig->load(source).code(), Code::kUnavailable);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, ABackEndThatLoadsNothingIsGivenUp) {
  make_faulty(Fault::kFallsSilent);
  rig->limits.idle_timeout = kShort;
  testing::MemoryStateSource source(testing::model_state_bytes(0, 4 * kMiB));
  EXPECT_EQ(rig->load(source).code(), Code::kDeadlineExceeded);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, AStateThatIsNotTheirsIsRefused) {
  make({.size = 4 * kMiB});
  testing::MemoryStateSource source(testing::model_state_bytes(1, 4 * kMiB));
  EXPECT_EQ(rig->load(source).code(), Code::kAborted);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, AStateThatIsTooShortIsRefused) {
  make({.size = 4 * kMiB});
  testing::MemoryStateSource source(
      testing::model_state_bytes(0, 4 * kMiB - 1));
  EXPECT_EQ(rig->load(source).code(), Code::kAborted);
}

TEST_F(ModelState, ABackEndThatStopsReadingRefuses) {
  make_faulty(Fault::kStopsReading, kMiB);
  testing::MemoryStateSource source(testing::model_state_bytes(0, 4 * kMiB));
  EXPECT_EQ(rig->load(source).code(), Code::kAborted);
  EXPECT_TRUE(rig->start().ok());
}

TEST_F(ModelState, ABackEndThatStopsReadingAndVouchesIsNotBelieved) {
  make_faulty(Fault::kStopsAndVouches, kMiB);
  testing::MemoryStateSource source(testing::model_state_bytes(0, 4 * kMiB));
  EXPECT_EQ(rig->load(source).code(), Code::kDataLoss);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, OfASourceThatBreaksOffNothingIsVouchedFor) {
  make({.size = 4 * kMiB});
  testing::MemoryStateSource source(testing::model_state_bytes(0, 4 * kMiB));
  source.fails_after = kMiB;
  source.fails = absl::DataLossError("the stream ends");
  EXPECT_EQ(rig->load(source).code(), Code::kDataLoss);
  EXPECT_EQ(rig->report().checks, 0u);
  EXPECT_EQ(rig->dev->state(), DeviceState::kBroken);
}

TEST_F(ModelState, AMemoryChangeWaits) {
  make({.size = 4 * kMiB, .delay = kShort});
  std::optional<absl::Status> saved;
  rig->dev->save_state(sink, rig->limits, [&saved](absl::Status status) {
    saved = std::move(status);
  });
  ASSERT_TRUE(vmm.turn_until([this] { return rig->report().saves == 1; }));
  ASSERT_NE(testing::add_memory(vmm.memory, 16 * kMiB, kMiB), nullptr);
  ASSERT_TRUE(vmm.turn_until([&saved] { return saved.has_value(); }));
  EXPECT_TRUE(saved->ok()) << *saved;
  EXPECT_EQ(rig->report().interrupted_by, 0u);
  EXPECT_TRUE(rig->start().ok());
  EXPECT_TRUE(vmm.memory.remove(16 * kMiB).ok());
  EXPECT_TRUE(rig->run([this](Completion done) {
                   vmm.context->when_memory_settled(std::move(done));
                 })
                  .ok());
}

// Eight back-ends that each think for a while: all of them at once.
TEST_F(ModelState, SeveralDevicesSaveAtTheSameTime) {
  constexpr size_t kDevices = 8;
  std::vector<std::unique_ptr<ModelRig>> rigs;
  std::vector<ComparingSink> sinks(kDevices);
  for (size_t i = 0; i < kDevices; ++i) {
    rigs.push_back(std::make_unique<ModelRig>(
        vmm, ModelStateOptions{.size = 2 * kMiB, .delay = kShort}));
  }
  size_t over = 0;
  size_t began_before_the_first_was_over = 0;
  for (size_t i = 0; i < kDevices; ++i) {
    rigs[i]->dev->save_state(
        sinks[i], rigs[i]->limits, [&](const absl::Status& status) {
          EXPECT_TRUE(status.ok()) << status;
          if (over++ > 0) return;
          for (const auto& one : rigs) {
            began_before_the_first_was_over += one->report().saves;
          }
        });
  }
  ASSERT_TRUE(vmm.turn_until([&over] { return over == kDevices; }));
  EXPECT_EQ(began_before_the_first_was_over, kDevices);
  for (const ComparingSink& one : sinks) {
    EXPECT_EQ(one.bytes, 2 * kMiB);
    EXPECT_TRUE(one.same && one.ended);
  }
}

}  // namespace
}  // namespace vhost
