// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/ops_driver.h"
#include "tests/user/user_peer.h"
#include "vhostdev/virtio_device.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;
using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kEverything = ~uint64_t{0};

// An open back-end; what the handshake sent is forgotten.
struct Rig {
  explicit Rig(uint64_t protocol, uint64_t more_features = 0,
               bool negotiate = true, VhostUserOptions options = {})
      : ops(make_vhost_user_ops(peer.address(), options)) {
    peer.protocol_features = protocol;
    peer.features |= more_features;
    EXPECT_TRUE(run(Open{}).status.ok());
    if (negotiate) {
      EXPECT_TRUE(
          run(SetFeatures{FeatureSet::from_words(more_features)}).status.ok());
    }
    peer.seen.clear();
    waits = ops->counters().waits;
  }

  UserPeer peer;
  std::unique_ptr<VhostOps> ops;
  uint64_t waits = 0;

  BatchResult run(Verb verb) {
    const std::string name(verb_name(verb));
    auto result = drive(*ops, peer, std::move(verb));
    EXPECT_TRUE(result.has_value()) << name;
    return result.has_value() ? *std::move(result) : BatchResult();
  }
  absl::StatusCode code(Verb verb) {
    return run(std::move(verb)).status.code();
  }
  uint64_t new_waits() const { return ops->counters().waits - waits; }

  template <typename T>
  T payload(size_t i) const {
    return *wire::read_prefix<T>(peer.seen.at(i).payload);
  }
};

TEST(SetFeaturesVerb, AddsBit30WhereItIsOffered) {
  Rig rig(bit_mask(kProtocolReplyAck), 0, false);
  ASSERT_TRUE(rig.run(SetFeatures{{kFeatureVersion1}}).status.ok());
  EXPECT_THAT(rig.peer.names(), ElementsAre("SET_FEATURES", "GET_FEATURES"));
  EXPECT_EQ(rig.payload<uint64_t>(0), 0x1'4000'0000u);
  EXPECT_EQ(rig.new_waits(), 1u);
}

TEST(SetFeaturesVerb, ReadsTheStatusBack) {
  Rig rig(bit_mask(kProtocolStatus), 0, false);
  ASSERT_TRUE(rig.run(SetFeatures{{kFeatureVersion1}}).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("SET_FEATURES", "SET_STATUS", "GET_STATUS"));
  EXPECT_EQ(rig.payload<uint64_t>(1), 0xbu);
  EXPECT_EQ(rig.new_waits(), 1u);
}

TEST(SetFeaturesVerb, IsRefusedIfFeaturesOkDoesNotStick) {
  Rig rig(bit_mask(kProtocolStatus), 0, false);
  rig.peer.status_mask = static_cast<uint8_t>(~kStatusFeaturesOk);
  const BatchResult result = rig.run(SetFeatures{{kFeatureVersion1}});
  EXPECT_EQ(result.status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(result.status.message()), HasSubstr("0x3, not 0xb"));
  EXPECT_EQ(result.refused.size(), 1u);
}

// Found with the dirty log: it wrote ACKNOWLEDGE DRIVER FEATURES_OK, which
// takes DRIVER_OK back.
TEST(SetFeaturesVerb, LeavesTheStatusOfARunningDeviceAlone) {
  Rig rig(bit_mask(kProtocolStatus), bit_mask(kFeatureLogAll), false);
  const SetFeatures verb{{kFeatureVersion1, kFeatureLogAll}, true};
  ASSERT_TRUE(rig.run(verb).status.ok());
  EXPECT_THAT(rig.peer.names(), ElementsAre("SET_FEATURES", "GET_FEATURES"));
}

TEST(SetFeaturesVerb, CarriesOnly64Features) {
  Rig rig(0, 0, false);
  EXPECT_EQ(rig.code(SetFeatures{{64}}), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(ConfigureVerb, SendsMemoryFirstAndEachQueueInOrder) {
  Rig rig(bit_mask(kProtocolReplyAck) | bit_mask(kProtocolConfigureMemSlots));
  const Guest guest(2);
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("ADD_MEM_REG", "SET_VRING_NUM", "SET_VRING_BASE",
                          "SET_VRING_ADDR", "SET_VRING_CALL", "SET_VRING_ERR",
                          "SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR",
                          "SET_VRING_CALL", "SET_VRING_ERR", "GET_FEATURES"));
  EXPECT_EQ(rig.new_waits(), 1u);
  for (size_t i = 0; i + 1 < rig.peer.seen.size(); ++i) {
    EXPECT_TRUE(rig.peer.seen[i].need_reply()) << i;
  }
}

TEST(ConfigureVerb, TakesOneWaitHoweverManyQueues) {
  Rig rig(bit_mask(kProtocolReplyAck));
  const Guest guest(64);
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  EXPECT_EQ(rig.new_waits(), 1u);
  EXPECT_EQ(rig.peer.seen.size(), 1 + 64 * 5 + 1u);
}

TEST(ConfigureVerb, SendsTheUsedRingsGuestAddressForTheLogAlways) {
  Rig rig(0);
  const Guest guest(1);
  const VringSetup setup = guest.setup(0);
  Configure verb;
  verb.queues = {setup};
  ASSERT_TRUE(rig.run(verb).status.ok());
  const auto addr = rig.payload<wire::VringAddr>(2);
  EXPECT_EQ(addr.flags, 0u);
  EXPECT_EQ(addr.descriptor, setup.addr.desc.user);
  EXPECT_EQ(addr.available, setup.addr.avail.user);
  EXPECT_EQ(addr.used, setup.addr.used.user);
  EXPECT_EQ(addr.log, setup.addr.used.gpa);
}

TEST(ConfigureVerb, SendsGuestAddressesWhereTheyAreInUse) {
  const uint64_t gpa = bit_mask(kProtocolGpaAddresses);
  Rig rig(gpa, 0, true, {.extra_protocol_features = gpa});
  const Guest guest(1);
  ASSERT_TRUE(rig.run(guest.configure()).status.ok());
  const auto table =
      wire::read_prefix<wire::MemoryTableHead>(rig.peer.seen[0].payload);
  EXPECT_EQ(table->num_regions, 1u);
  const auto region = *wire::read_prefix<wire::MemoryRegion>(
      std::span(rig.peer.seen[0].payload).subspan(8));
  EXPECT_EQ(region.user_address, Guest::kGpa);
  EXPECT_EQ(rig.payload<wire::VringAddr>(3).descriptor,
            guest.setup(0).addr.desc.gpa);
}

TEST(ConfigureVerb, SendsTheWholeTableWithoutSlots) {
  Rig rig(bit_mask(kProtocolReplyAck));
  std::vector<MemoryTableEntry> table;
  for (uint64_t i = 0; i < 8; ++i) {
    table.push_back(testing::entry_at(i << 20, Guest::memory(4096)));
  }
  Configure verb;
  verb.memory = testing::diff_between({}, table);
  ASSERT_TRUE(rig.run(verb).status.ok());
  ASSERT_THAT(rig.peer.names(), ElementsAre("SET_MEM_TABLE", "GET_FEATURES"));
  EXPECT_EQ(rig.peer.seen[0].payload.size(), 8 + 8 * 32u);
  EXPECT_EQ(rig.peer.seen[0].fds.size(), 8u);

  table.push_back(testing::entry_at(9 << 20, Guest::memory(4096)));
  verb.memory = testing::diff_between({}, table);
  EXPECT_EQ(rig.code(verb), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.peer.seen.size(), 2u);
}

TEST(ConfigureVerb, SendsOnlyTheChangeWithSlotsHighestRemovalFirst) {
  Rig rig(bit_mask(kProtocolConfigureMemSlots));
  const std::vector<MemoryTableEntry> before = {
      testing::entry_at(0x10000, Guest::memory(4096)),
      testing::entry_at(0x20000, Guest::memory(4096)),
      testing::entry_at(0x30000, Guest::memory(4096))};
  const std::vector<MemoryTableEntry> after = {
      before[1], testing::entry_at(0x40000, Guest::memory(4096))};
  ASSERT_TRUE(
      rig.run(UpdateMemory{testing::diff_between(before, after)}).status.ok());
  EXPECT_THAT(rig.peer.names(), ElementsAre("REM_MEM_REG", "REM_MEM_REG",
                                            "ADD_MEM_REG", "GET_FEATURES"));
  EXPECT_EQ(rig.payload<wire::SingleMemoryRegion>(0).region.guest_address,
            0x30000u);
  EXPECT_EQ(rig.payload<wire::SingleMemoryRegion>(1).region.guest_address,
            0x10000u);
  EXPECT_TRUE(rig.peer.seen[0].fds.empty());
  EXPECT_EQ(rig.peer.seen[2].fds.size(), 1u);
}

TEST(ConfigureVerb, RefusesMoreMemoryThanThereAreSlots) {
  UserPeer peer;
  peer.protocol_features = bit_mask(kProtocolConfigureMemSlots);
  peer.memory_slots = 1;
  auto ops = make_vhost_user_ops(peer.address());
  ASSERT_TRUE(drive(*ops, peer, Open{})->status.ok());
  const std::vector<MemoryTableEntry> table = {
      testing::entry_at(0x10000, Guest::memory(4096)),
      testing::entry_at(0x20000, Guest::memory(4096))};
  const size_t before = peer.seen.size();
  EXPECT_EQ(drive(*ops, peer, UpdateMemory{testing::diff_between({}, table)})
                ->status.code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(peer.seen.size(), before);
}

TEST(ConfigureVerb, PollingHasTheNoDescriptorFlag) {
  Rig rig(0);
  const Guest guest(1);
  Configure verb;
  verb.queues = {guest.setup(0)};
  verb.queues[0].call = NotifyRef::polling();
  ASSERT_TRUE(rig.run(verb).status.ok());
  EXPECT_EQ(rig.payload<uint64_t>(3), 0x100u);
  EXPECT_TRUE(rig.peer.seen[3].fds.empty());
  EXPECT_EQ(rig.payload<uint64_t>(4), 0u);
  EXPECT_EQ(rig.peer.seen[4].fds.size(), 1u);
}

TEST(ConfigureVerb, SendsTheByteOrderToLegacyGuests) {
  Rig rig(bit_mask(kProtocolCrossEndian));
  const Guest guest(1);
  Configure verb;
  verb.queues = {guest.setup(0)};
  verb.queues[0].big_endian = true;
  ASSERT_TRUE(rig.run(verb).status.ok());
  EXPECT_THAT(rig.peer.names()[2], "SET_VRING_ENDIAN");
  EXPECT_EQ(rig.payload<wire::VringState>(2).num, 1u);
  Rig without(0);
  EXPECT_EQ(without.code(verb), absl::StatusCode::kUnimplemented);
}

TEST(ConfigureVerb, SendsInflightAndLogBeforeTheQueues) {
  Rig rig(kEverything);
  const Guest guest(1);
  const UniqueFd log(::open("/dev/null", O_RDWR | O_CLOEXEC));
  Configure verb = guest.configure();
  verb.inflight = InflightArea{
      std::make_shared<const UniqueFd>(::open("/dev/null", O_RDWR | O_CLOEXEC)),
      4096, 64, 1, 256};
  verb.log = LogArea{.size = 8192, .fd = log};
  ASSERT_TRUE(rig.run(verb).status.ok());
  const auto names = rig.peer.names();
  EXPECT_THAT(std::vector(names.begin(), names.begin() + 4),
              ElementsAre("ADD_MEM_REG", "SET_INFLIGHT_FD", "SET_LOG_BASE",
                          "SET_VRING_NUM"));
  EXPECT_EQ(rig.payload<wire::Inflight>(1).mmap_offset, 64u);
  EXPECT_EQ(rig.payload<wire::Log>(2).mmap_size, 8192u);
  EXPECT_FALSE(rig.peer.seen[2].need_reply());
}

TEST(QueueNumbers, AboveEightBitsCannotBeNamed) {
  Rig rig(bit_mask(kProtocolReplyAck));
  const BackendQueue far{256};
  Configure configure;
  configure.queues.resize(1);
  configure.queues[0].index = far;
  EXPECT_EQ(rig.code(configure), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.code(Go{{{.index = far, .kick = {}}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.code(Quiesce{{far}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.code(Harvest{{far}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.code(SetCalls{{{far, NotifyRef::polling()}}}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(InBandNotification, IsNotNegotiated) {
  Rig rig(kEverything);
  EXPECT_EQ(rig.code(SetCalls{{{BackendQueue{0}, NotifyRef::in_band()}}}),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(
      rig.code(Go{{{.index = BackendQueue{0}, .kick = NotifyRef::in_band()}}}),
      absl::StatusCode::kUnimplemented);
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

TEST(GoVerb, KicksAllBeforeItEnablesAny) {
  Rig rig(bit_mask(kProtocolReplyAck));
  const Guest guest(2);
  Go verb = guest.go();
  verb.queues[1].enabled = false;
  ASSERT_TRUE(rig.run(verb).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("SET_VRING_KICK", "SET_VRING_KICK",
                          "SET_VRING_ENABLE", "GET_FEATURES"));
  EXPECT_EQ(rig.payload<wire::VringState>(2).index, 0u);
}

TEST(GoVerb, EnablesNothingBeforeBit30WasAccepted) {
  Rig rig(bit_mask(kProtocolReplyAck), 0, false);
  const Guest guest(1);
  ASSERT_TRUE(rig.run(guest.go()).status.ok());
  EXPECT_EQ(rig.peer.count(Request::kSetVringEnable), 0u);
  EXPECT_EQ(rig.code(SetQueuesEnabled{{{BackendQueue{0}, true}}}),
            absl::StatusCode::kUnimplemented);
}

TEST(StopVerbs, TakeOneWaitTogether) {
  Rig rig(bit_mask(kProtocolReplyAck));
  rig.peer.bases = {{0, 10}, {1, 11}};
  bool done = false;
  const Pending quiesce = rig.ops->submit(
      Quiesce{{BackendQueue{0}, BackendQueue{1}}}, MonotonicTime::max(),
      [&done](const BatchResult& result) { done = result.status.ok(); });
  EXPECT_TRUE(done);  // Inline: nothing is waited for.
  const BatchResult result =
      rig.run(Harvest{{BackendQueue{1}, BackendQueue{0}}});
  ASSERT_TRUE(result.status.ok());
  EXPECT_THAT(result.bases, ElementsAre(VringBase{11}, VringBase{10}));
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("SET_VRING_ENABLE", "SET_VRING_ENABLE",
                          "GET_VRING_BASE", "GET_VRING_BASE"));
  EXPECT_FALSE(rig.peer.seen[0].need_reply());
  EXPECT_EQ(rig.new_waits(), 1u);
}

TEST(StatusVerbs, SetDriverOkAndResetIt) {
  Rig rig(bit_mask(kProtocolStatus));
  ASSERT_TRUE(rig.run(DriverOk{}).status.ok());
  ASSERT_TRUE(rig.run(ResetStatus{}).status.ok());
  EXPECT_THAT(rig.peer.names(), ElementsAre("SET_STATUS", "GET_STATUS",
                                            "SET_STATUS", "GET_STATUS"));
  EXPECT_EQ(rig.payload<uint64_t>(0), 0xfu);
  EXPECT_EQ(rig.payload<uint64_t>(2), 0u);
  Rig without(0);
  EXPECT_TRUE(without.run(DriverOk{}).status.ok());
  EXPECT_TRUE(without.run(ResetStatus{}).status.ok());
  EXPECT_THAT(without.peer.seen, IsEmpty());
}

TEST(ConfigVerbs, ReadAndWrite) {
  Rig rig(bit_mask(kProtocolConfig));
  const BatchResult read = rig.run(GetConfig{8, 4});
  ASSERT_TRUE(read.status.ok());
  EXPECT_EQ(read.bytes, ByteVector(4, std::byte{7}));
  EXPECT_EQ(rig.peer.seen[0].payload.size(), 16u);
  ASSERT_TRUE(rig.run(SetConfig{2, ByteVector(3, std::byte{1}),
                                ConfigWriter::kMigration})
                  .status.ok());
  EXPECT_EQ(rig.payload<wire::ConfigHead>(1).flags, 1u);
  EXPECT_EQ(rig.code(GetConfig{0, 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.code(GetConfig{0, 257}), absl::StatusCode::kInvalidArgument);
}

TEST(InflightVerb, ReturnsTheArea) {
  for (const size_t size : {size_t{20}, size_t{24}}) {
    Rig rig(bit_mask(kProtocolInflightShmfd));
    rig.peer.inflight_bytes = size;
    const BatchResult result = rig.run(GetInflight{2, 128});
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.inflight.mmap_size, 4096u);
    EXPECT_EQ(result.inflight.num_queues, 2);
    ASSERT_NE(result.inflight.fd, nullptr);
    EXPECT_TRUE(result.inflight.fd->valid());
  }
  Rig unwanted(bit_mask(kProtocolInflightShmfd));
  unwanted.peer.inflight_size = 0;
  EXPECT_EQ(unwanted.run(GetInflight{2, 128}).inflight.fd, nullptr);
}

TEST(StateVerbs, UseTheBackEndsDescriptorWhereItSendsOne) {
  Rig rig(bit_mask(kProtocolDeviceState));
  const UniqueFd pipe(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const SetDeviceStateFd verb = {StateDirection::kLoad, pipe};
  BatchResult result = rig.run(verb);
  EXPECT_TRUE(result.status.ok());
  EXPECT_FALSE(result.fd.valid());
  EXPECT_EQ(rig.payload<wire::DeviceState>(0).direction, 1u);
  rig.peer.state_reply = 0;
  EXPECT_TRUE(rig.run(verb).fd.valid());
  rig.peer.state_reply = 3;
  EXPECT_EQ(rig.code(verb), absl::StatusCode::kAborted);
  EXPECT_TRUE(rig.run(CheckDeviceState{}).status.ok());
  rig.peer.acks[to_int(Request::kCheckDeviceState)] = 0x100;
  EXPECT_EQ(rig.code(CheckDeviceState{}), absl::StatusCode::kAborted);
}

TEST(NetVerbs, CarryMtuAndAddress) {
  Rig rig(bit_mask(kProtocolMtu) | bit_mask(kProtocolRarp));
  ASSERT_TRUE(rig.run(SetMtu{1500}).status.ok());
  ASSERT_TRUE(rig.run(SendRarp{{1, 2, 3, 4, 5, 6}}).status.ok());
  EXPECT_EQ(rig.payload<uint64_t>(0), 1500u);
  const ByteVector mac = rig.peer.seen[2].payload;
  EXPECT_THAT(
      mac, ElementsAre(std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4},
                       std::byte{5}, std::byte{6}, std::byte{0}, std::byte{0}));
}

TEST(LogVerbs, ReplaceTheLogAndTheFlagOfRings) {
  Rig rig(bit_mask(kProtocolLogShmfd), bit_mask(kFeatureLogAll));
  const Guest guest(1);
  const UniqueFd log(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(rig.run(SetLog{{.size = 4096, .fd = log}}).status.ok());
  VringSetup setup = guest.setup(0);
  setup.log_used = true;
  ASSERT_TRUE(rig.run(SetRingLogging{{setup}}).status.ok());
  EXPECT_THAT(rig.peer.names(),
              ElementsAre("SET_LOG_BASE", "SET_VRING_ADDR", "GET_FEATURES"));
  EXPECT_EQ(rig.payload<wire::VringAddr>(1).flags, 1u);
}

// SET_LOG_FD is for the kernel: a process shares the log and needs no eventfd.
TEST(LogVerbs, NeverSendsSetLogFdThoughSomebodyWantsHints) {
  Rig rig(bit_mask(kProtocolLogShmfd), bit_mask(kFeatureLogAll));
  const UniqueFd file(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const LogArea log = {.size = 4096, .fd = file, .event = file};
  ASSERT_TRUE(rig.run(SetLog{log}).status.ok());
  Configure configure;
  configure.log = log;
  ASSERT_TRUE(rig.run(configure).status.ok());
  EXPECT_THAT(rig.peer.names(), ElementsAre("SET_LOG_BASE", "SET_LOG_BASE"));
  for (const auto& message : rig.peer.seen) EXPECT_EQ(message.fds.size(), 1u);
}

TEST(IotlbVerb, UpdatesAndInvalidates) {
  Rig rig(bit_mask(kProtocolReplyAck) | bit_mask(kProtocolBackendReq),
          bit_mask(kFeatureAccessPlatform));
  UpdateIotlb verb = {
      .entry = {.iova = 1, .size = 2, .gpa = 3, .access = IotlbAccess::kWrite},
      .user = 4};
  ASSERT_TRUE(rig.run(verb).status.ok());
  verb.entry.access = IotlbAccess::kNone;
  ASSERT_TRUE(rig.run(verb).status.ok());
  const auto update = rig.payload<wire::Iotlb>(0);
  EXPECT_EQ(update.type, wire::kIotlbUpdate);
  EXPECT_EQ(update.user_address, 4u);
  EXPECT_EQ(update.permissions, 2);
  EXPECT_EQ(rig.payload<wire::Iotlb>(1).type, wire::kIotlbInvalidate);
  EXPECT_EQ(rig.payload<wire::Iotlb>(1).user_address, 0u);
}

TEST(UnnegotiatedVerbs, SendNothing) {
  Rig rig(0);
  const UniqueFd fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<Verb> verbs;
  verbs.emplace_back(GetInflight{1, 1});
  verbs.emplace_back(Resume{});
  verbs.emplace_back(ResetDevice{});
  verbs.emplace_back(SetLog{{.size = 4096, .fd = fd}});
  verbs.emplace_back(SetRingLogging{});
  verbs.emplace_back(GetConfig{0, 1});
  verbs.emplace_back(SetConfig{0, ByteVector(1)});
  verbs.emplace_back(SetConfigCall{});
  verbs.emplace_back(UpdateIotlb{});
  verbs.emplace_back(SetDeviceStateFd{StateDirection::kSave, fd});
  verbs.emplace_back(CheckDeviceState{});
  verbs.emplace_back(SetMtu{1500});
  verbs.emplace_back(SendRarp{});
  verbs.emplace_back(KickQueues{});
  verbs.emplace_back(GetHostNotifiers{});
  verbs.emplace_back(ResetOwner{});
  verbs.emplace_back(SetGuestCid{3});
  for (Verb& verb : verbs) {
    const std::string name(verb_name(verb));
    EXPECT_EQ(rig.code(std::move(verb)), absl::StatusCode::kUnimplemented)
        << name;
  }
  EXPECT_THAT(rig.peer.seen, IsEmpty());
}

}  // namespace
}  // namespace vhost::user
