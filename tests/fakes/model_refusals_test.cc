// SPDX-License-Identifier: Apache-2.0
//
// What the model back-end refuses, and how.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"
#include "vhostdev/testing/model_backend.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using user::Request;
namespace wire = user::wire;

constexpr uint32_t kIn = 0;

ModelOptions without_status() {
  ModelOptions options;
  options.without_protocol_features = user::bit_mask(kProtocolStatus);
  return options;
}

struct ConfigMessage {
  wire::ConfigHead head;
  uint8_t bytes[4];
};

// What is refused with an ack of 1 and leaves the connection alive.
struct BadMessage {
  const char* name;
  std::optional<uint64_t> (*say)(ModelFront& front);
};

class ModelBackendRefuses : public ::testing::TestWithParam<BadMessage> {};

TEST_P(ModelBackendRefuses, AndLivesOn) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.configure();
  EXPECT_EQ(GetParam().say(front), 1u);
  EXPECT_TRUE(front.get(Request::kGetFeatures).has_value());
  EXPECT_EQ(front.backend().counters().refused, 1u);
  ring.set_kick();
  ring.enable();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
}

using F = ModelFront;
using R = Request;
using wire::VringState;

const BadMessage kBadMessages[] = {
    {"AnUnknownId", [](F& f) { return f.ask(static_cast<R>(99)); }},
    {"AShortPayload", [](F& f) { return f.ask(R::kSetFeatures, uint32_t{0}); }},
    {"ALongPayload",
     [](F& f) {
       return f.ask(R::kSetFeatures, wire::Log{0, 0});
     }},
    {"AFeatureThatIsNotOffered",
     [](F& f) { return f.ask(R::kSetFeatures, uint64_t{1} << 57); }},
    {"AProtocolFeatureThatIsNotOffered",
     [](F& f) { return f.ask(R::kSetProtocolFeatures, uint64_t{1} << 40); }},
    {"ATableWithoutDescriptors", [](F& f) { return f.set_table(1, {}); }},
    {"ATableWithTooFewDescriptors",
     [](F& f) { return f.set_table(2, {f.memory_fd()}); }},
    {"ATableOfNineRegions",
     [](F& f) { return f.set_table(9, {f.memory_fd()}); }},
    {"ARegionOfSize0",
     [](F& f) {
       return f.add_region({0, 0, 0, 0}, {f.memory_fd()});
     }},
    {"ARegionTwice",
     [](F& f) { return f.add_region(f.region().region, {f.memory_fd()}); }},
    {"ARegionLargerThanItsFile",
     [](F& f) {
       return f.add_region({1 << 30, 1 << 21, 1 << 30, 0}, {f.memory_fd()});
     }},
    {"ARegionThatWrapsAround",
     [](F& f) {
       return f.add_region({~0ull - 0xfff, 0x2000, 1 << 30, 0},
                           {f.memory_fd()});
     }},
    {"ARegionAtTheEndOfAllFiles",
     [](F& f) {
       return f.add_region({1 << 30, 0x1000, 1 << 30, ~0ull - 0xfff},
                           {f.memory_fd()});
     }},
    {"ARegionWithoutDescriptor",
     [](F& f) {
       return f.add_region({1 << 30, 4096, 1 << 30, 0}, {});
     }},
    {"RemovalOfAnUnknownRegion",
     [](F& f) {
       return f.ask(R::kRemMemReg, wire::SingleMemoryRegion{0, {1, 2, 3, 0}});
     }},
    {"ASizeThatIsNoPowerOf2",
     [](F& f) {
       return f.ask(R::kSetVringNum, VringState{0, 3});
     }},
    {"ASizeOf65536",
     [](F& f) {
       return f.ask(R::kSetVringNum, VringState{0, 65536});
     }},
    {"ARingThatIsNotThere",
     [](F& f) {
       return f.ask(R::kSetVringNum, VringState{200, 16});
     }},
    {"ABaseOf17Bits",
     [](F& f) {
       return f.ask(R::kSetVringBase, VringState{0, 65536});
     }},
    {"AddressesOutsideMemory",
     [](F& f) {
       return f.ask(R::kSetVringAddr, wire::VringAddr{0, 0, 64, 64, 64, 64});
     }},
    {"AKickOfARingThatIsNotThere",
     [](F& f) {
       return f.ask(R::kSetVringKick, uint64_t{255}, {f.memory_fd()});
     }},
    {"AKickWithoutDescriptor",
     [](F& f) { return f.ask(R::kSetVringKick, uint64_t{0}); }},
    {"AKickThatCannotBeWaitedFor",
     [](F& f) {
       return f.ask(R::kSetVringKick, uint64_t{0}, {f.memory_fd()});
     }},
    {"ACallWithADescriptorTooMany",
     [](F& f) {
       return f.ask(R::kSetVringCall, uint64_t{0x100}, {f.memory_fd()});
     }},
    {"EnablingWithTwo",
     [](F& f) {
       return f.ask(R::kSetVringEnable, VringState{0, 2});
     }},
    {"AChannelThatIsNoSocket",
     [](F& f) { return f.ask(R::kSetBackendReqFd, {f.memory_fd()}); }},
    {"AMessageOfAFeatureThatWasNotNegotiated",
     [](F& f) {
       return f.ask(R::kVringKick, VringState{0, 0});
     }},
    {"AWriteOfReadOnlyConfiguration",
     [](F& f) {
       return f.ask(R::kSetConfig, ConfigMessage{{0, 4, 0}, {}});
     }},
    {"AWritePastTheConfiguration",
     [](F& f) {
       return f.ask(R::kSetConfig, ConfigMessage{{58, 4, 1}, {}});
     }},
    {"AConfigurationWriteOfAnotherSize",
     [](F& f) {
       return f.ask(R::kSetConfig, ConfigMessage{{0, 8, 1}, {}});
     }},
};

INSTANTIATE_TEST_SUITE_P(All, ModelBackendRefuses,
                         ::testing::ValuesIn(kBadMessages),
                         [](const auto& one) { return one.param.name; });

// What leaves no way to say no.
struct Fatal {
  const char* name;
  void (*say)(ModelFront& front);
  const char* says;
};

class ModelBackendHangsUp : public ::testing::TestWithParam<Fatal> {};

TEST_P(ModelBackendHangsUp, AndSaysWhy) {
  ModelFront front(without_status());
  front.set_up();
  GetParam().say(front);
  EXPECT_TRUE(front.hung_up());
  EXPECT_FALSE(front.backend().connected());
  EXPECT_THAT(front.backend().trouble(), HasSubstr(GetParam().says));
}

const Fatal kFatal[] = {
    {"AnotherVersion",
     [](F& f) { f.send(R::kSetFeatures, uint64_t{0}, {}, 2); }, "version 2"},
    {"AReply", [](F& f) { f.send(R::kSetFeatures, uint64_t{0}, {}, 1 | 4); },
     "a reply where"},
    {"AnUnknownIdThatAsksForNoAck",
     [](F& f) { f.send(static_cast<R>(99), uint64_t{0}); }, "message 99"},
    {"ABadRequestThatAsksForNoAck",
     [](F& f) {
       f.send(R::kSetVringNum, VringState{0, 3});
     },
     "SET_VRING_NUM: vq 0"},
    {"ABaseOfARingThatIsNotThere",
     [](F& f) {
       f.send(R::kGetVringBase, VringState{4, 0});
     },
     "GET_VRING_BASE: vq 4 of 4"},
    {"AStrayPayload", [](F& f) { f.send(R::kGetFeatures, uint64_t{0}); },
     "GET_FEATURES: a payload of 8 bytes"},
    {"AHugePayload",
     [](F& f) {
       const std::vector<std::byte> huge(4097);
       f.send(R::kSetConfig, huge);
     },
     "4097 bytes"},
    {"NineDescriptors",
     [](F& f) {
       const FdRef m = f.memory_fd();
       f.send(R::kSetVringKick, uint64_t{0}, {m, m, m, m, m, m, m, m, m});
     },
     "more descriptors"},
    {"ALogThatIsNone",
     [](F& f) {
       f.send(R::kSetLogBase, wire::Log{0, 0}, {f.memory_fd()});
     },
     "SET_LOG_BASE"},
};

INSTANTIATE_TEST_SUITE_P(All, ModelBackendHangsUp, ::testing::ValuesIn(kFatal),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace vhost::testing
