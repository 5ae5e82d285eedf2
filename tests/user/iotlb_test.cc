// SPDX-License-Identifier: Apache-2.0
//
// Translations: told with the rings, and told when they are asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/fakes/ops_driver.h"
#include "tests/user/channel_rig.h"

namespace vhost::user {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

UpdateIotlb page(uint64_t iova, uint64_t user) {
  return {.entry = {.iova = iova,
                    .size = 4096,
                    .gpa = iova + 0x1000'0000,
                    .access = IotlbAccess::kBoth},
          .user = user};
}

// One queue and two translations.
Configure two_pages(const Guest& guest) {
  Configure out = guest.configure();
  out.iotlb = {page(0x1000, 0x7000), page(0x8000, 0x9000)};
  return out;
}

TEST(Iotlb, IsOfferedWithAChannelAndAcks) {
  EXPECT_TRUE(ChannelRig().ops->traits().has_iotlb);
  EXPECT_FALSE(ChannelRig().ops->traits().logs_behind_iommu);
  UserPeer peer;  // No ACCESS_PLATFORM.
  peer.protocol_features = ChannelRig::kProtocol;
  const auto ops = make_vhost_user_ops(peer.address());
  ASSERT_TRUE(drive(*ops, peer, Open{})->status.ok());
  EXPECT_FALSE(ops->traits().has_iotlb);
}

TEST(Iotlb, OfTheRingsIsToldBeforeTheRings) {
  ChannelRig rig;
  const Guest guest(1);
  ASSERT_TRUE(rig.run(two_pages(guest)).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("ADD_MEM_REG", "IOTLB_MSG", "IOTLB_MSG",
                          "SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR",
                          "SET_VRING_CALL", "SET_VRING_ERR", "GET_FEATURES"));
  for (const auto& in : rig.peer.seen) {
    EXPECT_TRUE(in.need_reply() || in.id == Request::kGetFeatures);
  }
  const auto told = rig.translations();
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_EQ(told[1].type, wire::kIotlbUpdate);
  EXPECT_EQ(told[1].iova, 0x8000u);
  EXPECT_EQ(told[1].size, 4096u);
  EXPECT_EQ(told[1].user_address, 0x9000u);
  EXPECT_EQ(told[1].permissions, 3u);
  // Ring addresses are IOVAs.
  const auto addr =
      *wire::read_prefix<wire::VringAddr>(rig.peer.seen[5].payload);
  EXPECT_EQ(addr.descriptor, guest.setup(0).addr.desc.gpa);
}

TEST(Iotlb, EachTranslationIsAStep) {
  ChannelRig rig;
  const Guest guest(1);
  int seen = 0;
  rig.peer.instead = [&](const UserPeer::Message& in) {
    if (in.id != Request::kIotlbMsg || ++seen != 2) return ByteVector();
    return u64_message(to_int(in.id), kReplyFlags, 1);
  };
  const BatchResult result = rig.run(two_pages(guest));
  EXPECT_EQ(result.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(result.status.message()),
              HasSubstr("IOTLB_MSG: back-end refused (1)"));
  EXPECT_THAT(result.refused, ElementsAre(Step{StepKind::kIotlb, 1}));
  EXPECT_THAT(result.applied, ::testing::Contains(Step{StepKind::kIotlb, 0}));
}

TEST(Iotlb, ARefusedUpdateIsItsStep) {
  ChannelRig rig;
  rig.peer.acks[to_int(Request::kIotlbMsg)] = 1;
  EXPECT_THAT(rig.run(page(0, 0)).refused,
              ElementsAre(Step{StepKind::kIotlb, 0}));
}

TEST(Iotlb, WithoutAccessPlatformNothingIsSent) {
  ChannelRig rig({kFeatureVersion1});
  const Guest guest(1);
  EXPECT_EQ(rig.run(two_pages(guest)).status.code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(rig.run(page(0, 0)).status.code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(Iotlb, ATranslationOfNothingOrBeyondTheEndIsNotSent) {
  ChannelRig rig;
  UpdateIotlb nothing = page(0x1000, 0);
  nothing.entry.size = 0;
  UpdateIotlb beyond = page(0x1000, 0);
  beyond.entry.iova = UINT64_MAX - 4094;
  for (const UpdateIotlb& bad : {nothing, beyond}) {
    EXPECT_EQ(rig.run(bad).status.code(), absl::StatusCode::kInvalidArgument);
    Configure verb;
    verb.iotlb = {bad};
    EXPECT_EQ(rig.run(verb).status.code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(rig.peer.seen, IsEmpty());
  UpdateIotlb all = page(0, 0);
  all.entry.size = UINT64_MAX;
  all.entry.access = IotlbAccess::kNone;
  EXPECT_TRUE(rig.run(all).status.ok());
}

// ---------------------------------------------------------------------------
// Misses
// ---------------------------------------------------------------------------

class Miss : public ::testing::Test {
 protected:
  // What is asked for at `iova` and answered.
  std::optional<uint64_t> ask(uint64_t iova) {
    rig.write_channel(ChannelRig::miss(iova));
    rig.pump();
    rig.peer.serve();
    rig.pump();
    return rig.answer();
  }

  Guest guest{1};
  ChannelRig rig;
};

// A back-end looks at a ring while the rest of its set-up is still on its way.
TEST_F(Miss, FindsMemoryThatIsStillUnacknowledged) {
  std::optional<uint64_t> answer;
  rig.peer.meanwhile = [&](const UserPeer::Message& in,
                           UserPeer::Moment moment) {
    if (in.id != Request::kSetVringAddr || moment != UserPeer::Moment::kRead) {
      return;
    }
    rig.write_channel(ChannelRig::miss(Guest::kGpa));
    rig.pump();
    answer = rig.answer();
  };
  EXPECT_TRUE(rig.run(guest.configure()).status.ok());
  EXPECT_EQ(answer, 0u);
  rig.peer.serve();
  EXPECT_THAT(rig.translations(), SizeIs(1));
}

// Memory that was told before the guest accepted ACCESS_PLATFORM is not told
// again by the start that follows.
TEST_F(Miss, FindsMemoryThatWasToldToTheGuestBefore) {
  ASSERT_TRUE(rig.run(SetFeatures{{kFeatureVersion1}}).status.ok());
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  ASSERT_TRUE(rig.run(Harvest{{BackendQueue{0}}}).status.ok());
  ASSERT_TRUE(rig.run(SetFeatures{{kFeatureVersion1, kFeatureAccessPlatform}})
                  .status.ok());
  ASSERT_TRUE(rig.run(guest.configure(false)).status.ok());
  EXPECT_EQ(ask(Guest::kGpa), 0u);
  EXPECT_THAT(rig.translations(), SizeIs(1));
}

// Regression: what was refused beside the memory made it be forgotten.
TEST_F(Miss, FindsMemoryThatWasTakenThoughARingWasNot) {
  rig.peer.acks[to_int(Request::kSetVringNum)] = 1;
  ASSERT_TRUE(absl::IsAborted(rig.run(guest.configure()).status));
  rig.peer.acks.erase(to_int(Request::kSetVringNum));
  ASSERT_TRUE(rig.run(guest.configure(false)).status.ok());
  EXPECT_EQ(ask(Guest::kGpa), 0u);
  EXPECT_THAT(rig.translations(), SizeIs(1));
}

TEST_F(Miss, FindsOnlyThoseEntriesOfATableThatWereTaken) {
  constexpr uint64_t kSecond = Guest::kGpa + 16 * Guest::kSize;
  const std::vector<MemoryTableEntry> both = {
      guest.table()[0],
      testing::entry_at(kSecond, Guest::memory(Guest::kSize))};
  int seen = 0;
  rig.peer.instead = [&](const UserPeer::Message& in) {
    if (in.id != Request::kAddMemReg || ++seen != 2) return ByteVector();
    return u64_message(to_int(in.id), kReplyFlags, 1);
  };
  ASSERT_TRUE(absl::IsAborted(
      rig.run(UpdateMemory{testing::diff_between({}, both)}).status));
  EXPECT_EQ(ask(Guest::kGpa), 0u);
  EXPECT_EQ(ask(kSecond), 1u);
  // Taken at the second attempt.
  MemoryDiff again = testing::diff_between({}, both);
  again.added.erase(again.added.begin());
  ASSERT_TRUE(rig.run(UpdateMemory{again}).status.ok());
  EXPECT_EQ(ask(kSecond), 0u);
}

TEST_F(Miss, WhoseTranslationDoesNotAllowItIsRefused) {
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  rig.sink.translation = [](uint64_t iova, IotlbAccess) {
    return IotlbEntry{.iova = iova & ~0xfffull,
                      .size = 0x1000,
                      .gpa = Guest::kGpa,
                      .access = IotlbAccess::kRead};
  };
  EXPECT_EQ(ask(Guest::kGpa), 1u);
  EXPECT_THAT(rig.translations(), IsEmpty());
}

TEST_F(Miss, WhoseTranslationWrapsIsRefused) {
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  rig.sink.translation = [](uint64_t, IotlbAccess access) {
    return IotlbEntry{.iova = 0,
                      .size = UINT64_MAX,
                      .gpa = UINT64_MAX - 0xfff,
                      .access = access};
  };
  EXPECT_EQ(ask(Guest::kGpa + 0x1000), 1u);
}

TEST_F(Miss, InMemoryThatWentAwayIsRefused) {
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  ASSERT_TRUE(rig.run(UpdateMemory{testing::diff_between(guest.table(), {})})
                  .status.ok());
  EXPECT_EQ(ask(Guest::kGpa), 1u);
  EXPECT_THAT(rig.translations(), IsEmpty());
}

// Two pieces of memory, one behind the other for the guest, and a translation
// that spans both: the answer must hold the address that was asked for.
TEST_F(Miss, InTheSecondPieceOfATranslationIsAnsweredWithThatPiece) {
  constexpr uint64_t kSecond = Guest::kGpa + Guest::kSize;
  const std::vector<MemoryTableEntry> both = {
      guest.table()[0],
      testing::entry_at(kSecond, Guest::memory(Guest::kSize))};
  ASSERT_TRUE(
      rig.run(UpdateMemory{testing::diff_between({}, both)}).status.ok());
  rig.sink.translation = [](uint64_t, IotlbAccess access) {
    return IotlbEntry{.iova = 0,
                      .size = 2 * Guest::kSize,
                      .gpa = Guest::kGpa,
                      .access = access};
  };
  EXPECT_EQ(ask(Guest::kSize + 0x3000), 0u);
  const auto told = rig.translations();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].iova, Guest::kSize);
  EXPECT_EQ(told[0].size, Guest::kSize);
  EXPECT_EQ(told[0].user_address, both[1].user);

  EXPECT_EQ(ask(0x3000), 0u);
  EXPECT_EQ(rig.translations()[1].iova, 0u);
  EXPECT_EQ(rig.translations()[1].size, Guest::kSize);
}

TEST_F(Miss, OfWhatTheVmmTranslatesElsewhereOrNotAtAllIsRefused) {
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  IotlbEntry entry = {.iova = 0x1000,
                      .size = 0x1000,
                      .gpa = Guest::kGpa,
                      .access = IotlbAccess::kBoth};
  rig.sink.translation = [&entry](uint64_t, IotlbAccess) { return entry; };
  EXPECT_EQ(ask(0xfff), 1u);
  EXPECT_EQ(ask(0x2000), 1u);
  EXPECT_EQ(ask(UINT64_MAX), 1u);
  EXPECT_EQ(ask(0x1fff), 0u);
  entry.access = IotlbAccess::kNone;
  EXPECT_EQ(ask(0x1000), 1u);
  entry = {.iova = 0, .size = 0, .gpa = 0, .access = IotlbAccess::kBoth};
  EXPECT_EQ(ask(0), 1u);
  EXPECT_THAT(rig.translations(), SizeIs(1));
}

// To the very end of the address space.
TEST_F(Miss, InATranslationOfEverythingIsCutToMemory) {
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  rig.sink.translation = [](uint64_t, IotlbAccess access) {
    return IotlbEntry{
        .iova = 0, .size = UINT64_MAX, .gpa = 0, .access = access};
  };
  EXPECT_EQ(ask(Guest::kGpa + 5), 0u);
  const auto told = rig.translations();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].iova, Guest::kGpa);
  EXPECT_EQ(told[0].size, Guest::kSize);
}

}  // namespace
}  // namespace vhost::user
