// SPDX-License-Identifier: Apache-2.0
//
// What the model says of a request when it is told to lie.
#include "vhostdev/testing/model_fault.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kIn = 0;
constexpr uint32_t kRead = 512 + 1;  // The data and the status.

// The used ring after `truths` true requests and one lie.
struct Told {
  uint16_t index = 0;
  uint32_t id = 0;
  uint32_t length = 0;
};

Told lie(ModelFault fault, uint16_t truths = 0) {
  ModelOptions options;
  options.without_protocol_features = user::bit_mask(kProtocolStatus);
  options.fault = fault;
  options.fault_after = truths;
  ModelFront front(options);
  front.set_up();
  HandRing ring(front);
  ring.start();
  for (uint16_t i = 0; i < truths; ++i) {
    EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
    EXPECT_EQ(ring.used_len(i), kRead);
  }
  EXPECT_EQ(ring.used_idx(), truths);
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  const auto* const elements =
      reinterpret_cast<const uint32_t*>(ring.at(HandRing::kUsed + 4));
  return {.index = ring.used_idx(),
          .id = elements[2 * truths],
          .length = ring.used_len(truths)};
}

TEST(ModelFaults, HaveNames) {
  for (const ModelFaultName& one : model_faults()) {
    EXPECT_EQ(model_fault(one.name), one.fault) << one.name;
  }
  EXPECT_EQ(model_fault("none"), std::nullopt);
}

TEST(ModelFaults, ATruthIsOneElementOfTheRequest) {
  const Told told = lie(ModelFault::kNone);
  EXPECT_EQ(told.index, 1);
  EXPECT_EQ(told.id, 0u);
  EXPECT_EQ(told.length, kRead);
}

TEST(ModelFaults, TheUsedIndexGoesFurtherThanThereAreDescriptors) {
  EXPECT_EQ(lie(ModelFault::kUsedIndex).index, HandRing::kNum + 1);
}

TEST(ModelFaults, TheIdIsOfNoDescriptor) {
  EXPECT_EQ(lie(ModelFault::kUsedId).id, HandRing::kNum);
}

TEST(ModelFaults, TheIdIsOfADescriptorThatIsNotInFlight) {
  const Told told = lie(ModelFault::kUsedTwice);
  EXPECT_NE(told.id, 0u);
  EXPECT_LT(told.id, HandRing::kNum);
}

TEST(ModelFaults, TheLengthIsMoreThanThereIsRoomFor) {
  EXPECT_EQ(lie(ModelFault::kLength).length, kRead + 1);
}

TEST(ModelFaults, ComeAfterTheTruths) {
  EXPECT_EQ(lie(ModelFault::kLength, 3).length, kRead + 1);
}

}  // namespace
}  // namespace vhost::testing
