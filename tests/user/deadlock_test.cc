// SPDX-License-Identifier: Apache-2.0
//
// A back-end with one thread asks on its own channel and does nothing on the
// main one until it has its answer, while we wait for it there: at every
// message of every verb, before the message is looked at, in the middle of its
// reply and behind it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/badinput/footprint.h"
#include "tests/fakes/ops_driver.h"
#include "tests/user/channel_rig.h"

namespace vhost::user {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::Guest;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Moment = UserPeer::Moment;

constexpr BackendQueue kQ0{0};

struct Waiting {
  const char* name;
  Verb (*verb)(const Guest& guest);
};

const Waiting kVerbs[] = {
    {"SetFeatures",
     [](const Guest&) -> Verb {
       return SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}};
     }},
    {"Configure",
     [](const Guest& guest) -> Verb { return guest.configure(false); }},
    {"Go", [](const Guest& guest) -> Verb { return guest.go(); }},
    {"DriverOk", [](const Guest&) -> Verb { return DriverOk(); }},
    {"Harvest", [](const Guest&) -> Verb { return Harvest{{kQ0}}; }},
    {"SetQueuesEnabled",
     [](const Guest&) -> Verb {
       return SetQueuesEnabled{{{.index = kQ0, .enabled = false}}};
     }},
    {"UpdateMemory",
     [](const Guest& guest) -> Verb {
       const auto dimm = testing::entry_at(1 << 30, Guest::memory(1 << 20));
       return UpdateMemory{
           testing::diff_between(guest.table(), {guest.table()[0], dimm})};
     }},
    {"GetConfig",
     [](const Guest&) -> Verb { return GetConfig{.offset = 0, .size = 16}; }},
    {"UpdateIotlb",
     [](const Guest&) -> Verb {
       return UpdateIotlb{.entry = {.iova = 0,
                                    .size = 4096,
                                    .gpa = 0,
                                    .access = IotlbAccess::kNone}};
     }},
    {"KickQueues", [](const Guest&) -> Verb { return KickQueues{{kQ0}}; }},
};

class BothWait : public ::testing::TestWithParam<Waiting> {
 protected:
  // Does the verb once for each of its messages and moments; the back-end then
  // sends `asks`, and reads and writes nothing else before it has all answers.
  static void at_every_moment(const std::vector<ByteVector>& asks) {
    for (const Moment moment :
         {Moment::kRead, Moment::kHalfway, Moment::kAnswered}) {
      size_t messages = 1;
      for (size_t at = 0; at < messages; ++at) {
        SCOPED_TRACE(absl::StrCat("moment ", static_cast<int>(moment),
                                  ", message ", at));
        const auto before = badinput::Footprint::now();
        const auto began = std::chrono::steady_clock::now();
        at_one(moment, at, asks, messages);
        EXPECT_EQ(badinput::Footprint::now(), before);
        EXPECT_LT(std::chrono::steady_clock::now() - began,
                  std::chrono::seconds(10));
        if (HasFailure()) return;
      }
      EXPECT_GE(messages, 1u);
    }
  }

 private:
  static void at_one(Moment moment, size_t at,
                     const std::vector<ByteVector>& asks, size_t& messages) {
    const Guest guest(1);
    ChannelRig rig;
    ASSERT_TRUE(rig.run(UpdateMemory{guest.all_memory()}).status.ok());
    rig.peer.seen.clear();
    std::vector<std::optional<uint64_t>> answers;
    bool asked = false;
    rig.peer.meanwhile = [&](const UserPeer::Message&, Moment now) {
      if (asked || now != moment || rig.peer.seen.size() != at + 1) return;
      asked = true;
      answers = ask(rig, asks);
    };

    const BatchResult result = rig.run(GetParam().verb(guest));

    EXPECT_TRUE(result.status.ok()) << result.status;
    // A message that has no reply has only one moment.
    if (asked) {
      EXPECT_THAT(answers, SizeIs(asks.size()));
      EXPECT_THAT(answers, Each(std::optional<uint64_t>(0)));
      expect_translated(rig, GetParam());
    }
    EXPECT_TRUE(asked || moment != Moment::kRead);
    messages = std::max(messages, requests_of_verb(rig));
    EXPECT_THAT(rig.sink.lost, IsEmpty());
    // Nothing was mixed up: the connection is of use.
    EXPECT_TRUE(rig.run(GetConfig{.offset = 0, .size = 16}).status.ok());
  }

  // All of `asks` at once; in the order of their answers.
  static std::vector<std::optional<uint64_t>> ask(
      ChannelRig& rig, const std::vector<ByteVector>& asks) {
    ByteVector together;
    for (const ByteVector& one : asks) {
      together.insert(together.end(), one.begin(), one.end());
    }
    rig.write_channel(together);
    // One turn of ours is enough: nothing comes from the back-end meanwhile.
    rig.pump();
    std::vector<std::optional<uint64_t>> out;
    while (const auto value = rig.answer()) out.push_back(value);
    return out;
  }

  // What was missed is on its way, and acknowledged.
  static void expect_translated(ChannelRig& rig, const Waiting& waiting) {
    rig.peer.serve();
    rig.pump();
    std::vector<uint64_t> updates;
    for (const wire::Iotlb& told : rig.translations()) {
      if (told.type == wire::kIotlbUpdate) updates.push_back(told.iova);
    }
    EXPECT_THAT(updates, ElementsAre(Guest::kGpa)) << waiting.name;
  }

  static size_t requests_of_verb(const ChannelRig& rig) {
    size_t out = 0;
    for (const UserPeer::Message& in : rig.peer.seen) {
      out += in.id != Request::kIotlbMsg ? 1 : 0;
    }
    return out;
  }
};

TEST_P(BothWait, AMissIsAnswered) {
  at_every_moment({ChannelRig::miss(Guest::kGpa)});
}

TEST_P(BothWait, AConfigurationChangeAMissAndACallAreAnsweredTogether) {
  at_every_moment({ChannelRig::config_change(), ChannelRig::miss(Guest::kGpa),
                   ChannelRig::vring_call(0)});
}

INSTANTIATE_TEST_SUITE_P(With, BothWait, ::testing::ValuesIn(kVerbs),
                         [](const ::testing::TestParamInfo<Waiting>& info) {
                           return std::string(info.param.name);
                         });

// The miss is there before we begin to wait.
TEST(BothWaitFromTheStart, AMissThatCameFirstIsAnsweredByTheWait) {
  const Guest guest(1);
  ChannelRig rig;
  ASSERT_TRUE(rig.run(UpdateMemory{guest.all_memory()}).status.ok());
  rig.write_channel(ChannelRig::miss(Guest::kGpa));
  bool answered = false;
  rig.peer.meanwhile = [&](const UserPeer::Message& in, Moment moment) {
    if (in.id != Request::kGetVringBase || moment != Moment::kRead) return;
    rig.pump();
    answered = rig.answer() == 0u;
  };
  EXPECT_TRUE(rig.run(Harvest{{kQ0}}).status.ok());
  EXPECT_TRUE(answered);
}

// A back-end that asks as soon as it has a channel: no memory is there to be
// found, and the handshake goes on.
TEST(BothWaitFromTheStart, AMissDuringTheHandshakeIsRefusedAndHoldsNothingUp) {
  UserPeer peer;
  peer.protocol_features = ChannelRig::kProtocol;
  peer.features |= bit_mask(kFeatureAccessPlatform);
  const auto ops = make_vhost_user_ops(peer.address());
  ChannelSink sink;
  ops->attach(nullptr, &sink);
  std::optional<uint64_t> answer;
  peer.meanwhile = [&](const UserPeer::Message& in, Moment moment) {
    if (in.id != Request::kSetBackendReqFd || moment != Moment::kAnswered) {
      return;
    }
    const ByteVector miss = ChannelRig::miss(0);
    EXPECT_EQ(send_some(peer.channel(), miss, {}).bytes, miss.size());
    ops->pump(std::chrono::steady_clock::now());
    std::array<std::byte, 20> space = {};
    if (receive_some(peer.channel(), space).bytes == space.size()) {
      answer = wire::read_prefix<uint64_t>(std::span(space).subspan(12));
    }
  };
  EXPECT_TRUE(drive(*ops, peer, Open{.config_size = 16})->status.ok());
  EXPECT_EQ(answer, 1u);
}

}  // namespace
}  // namespace vhost::user
