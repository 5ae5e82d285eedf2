// SPDX-License-Identifier: Apache-2.0
//
// Messages of the model back-end: what it refuses and how, memory, log,
// configuration.

#include "vhostdev/testing/model_backend.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_front.h"

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

TEST(ModelBackend, OffersWhatItIsNotToldToHide) {
  ModelOptions options;
  options.without_features = {kFeatureEventIdx};
  options.without_protocol_features = user::bit_mask(kProtocolReplyAck);
  ModelFront front(options);
  const auto features =
      FeatureSet::from_words(*front.get(Request::kGetFeatures));
  EXPECT_FALSE(features.has(kFeatureEventIdx));
  EXPECT_TRUE(features.has(kFeatureIndirectDesc));
  EXPECT_TRUE(features.has(kFeatureLogAll));
  const uint64_t protocol = *front.get(Request::kGetProtocolFeatures);
  EXPECT_EQ(protocol & user::bit_mask(kProtocolReplyAck), 0u);
  EXPECT_EQ(protocol & user::bit_mask(kProtocolInbandNotifications), 0u);
  EXPECT_NE(protocol & user::bit_mask(kProtocolConfigureMemSlots), 0u);
}

TEST(ModelBackend, AnswersWhatItIsAskedAndAcksNothingUnasked) {
  ModelFront front;
  front.set_up();
  front.send(Request::kSetOwner, std::span<const std::byte>());
  EXPECT_EQ(front.get(Request::kGetQueueNum), 4u);
  EXPECT_EQ(front.get(Request::kGetMaxMemSlots), 509u);
  EXPECT_EQ(front.ask(Request::kResetOwner), 0u);
}

using wire::VringState;

TEST(ModelBackend, HangsUpOnNeedReplyBeforeItWasNegotiated) {
  ModelFront front;
  EXPECT_FALSE(front.ask(Request::kSetOwner).has_value());
  EXPECT_THAT(front.backend().trouble(), HasSubstr("without REPLY_ACK"));
}

TEST(ModelBackend, HangsUpOnInbandNotificationsWithoutWhatTheyNeed) {
  ModelOptions options;
  options.inband_notifications = true;
  ModelFront front(options);
  front.send(Request::kSetProtocolFeatures,
             user::bit_mask(kProtocolInbandNotifications));
  EXPECT_TRUE(front.hung_up());
}

TEST(ModelBackend, ClosesTheDescriptorsOfWhatItRefuses) {
  ModelFront front;
  front.set_up();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  EXPECT_EQ(front.ask(Request::kSetVringKick, uint64_t{200}, {write_end}), 1u);
  write_end.reset();
  char byte;
  EXPECT_EQ(::read(read_end.get(), &byte, 1), 0);
}

TEST(ModelBackend, AcceptsADescriptorOfARemovalAndClosesIt) {
  ModelFront front;
  front.set_up();
  EXPECT_EQ(front.ask(Request::kRemMemReg, front.region(), {front.memory_fd()}),
            0u);
  EXPECT_EQ(front.backend().memory_regions(), 0u);
}

TEST(ModelBackend, HasAsManySlotsAsItSays) {
  ModelOptions options;
  options.memory_slots = 2;
  ModelFront front(options);
  front.set_up();
  EXPECT_EQ(front.get(Request::kGetMaxMemSlots), 2u);
  const FdRef fd = front.memory_fd();
  EXPECT_EQ(front.add_region({0, 4096, 0, 0}, {fd}), 0u);
  EXPECT_EQ(front.add_region({8192, 4096, 8192, 0}, {fd}), 1u);
}

TEST(ModelBackend, TakesNoMemoryAwayFromARunningRing) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(front.ask(Request::kRemMemReg, front.region()), 1u);
  EXPECT_EQ(front.set_table(1, {front.memory_fd()}), 1u);
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);

  EXPECT_EQ(ring.get_base(), 2u);
  EXPECT_EQ(front.ask(Request::kRemMemReg, front.region()), 0u);
}

TEST(ModelBackend, AnswersARemovalOnlyWhenNothingIsInFlight) {
  ModelOptions options = without_status();
  options.latency = std::chrono::milliseconds(20);
  ModelFront front(options);
  front.set_up();
  HandRing ring(front);
  ring.start();
  const wire::MemoryRegion more = {1 << 30, 0x1000, 1 << 30, 0};
  ASSERT_EQ(front.add_region(more, {front.memory_fd()}), 0u);
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 1; }));
  EXPECT_EQ(front.ask(Request::kRemMemReg, wire::SingleMemoryRegion{0, more}),
            0u);
  EXPECT_EQ(ring.used_idx(), 1);
}

TEST(ModelBackend, LogsDataAndUsedRing) {
  ModelFront front(without_status());
  front.set_up({kFeatureLogAll});
  const UniqueFd file(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  const auto log = *ModelMapping::map(file, 0, 4096);
  front.send(Request::kSetLogBase, wire::Log{4096, 0}, {file});
  ASSERT_EQ(front.reply_u64(), 0u);
  HandRing ring(front);
  ring.configure(/*log_used=*/true);
  ring.set_kick();
  ring.enable();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);

  std::vector<uint64_t> dirty;
  for (uint64_t page = 0; page < 4096 * 8; ++page) {
    const auto byte = std::to_integer<unsigned>(log->data()[page / 8]);
    if ((byte >> page % 8 & 1) != 0) dirty.push_back(page);
  }
  const std::vector<uint64_t> expected = {ring.gpa(HandRing::kUsed) >> 12,
                                          ring.gpa(HandRing::kData) >> 12,
                                          ring.gpa(0xf000) >> 12};
  EXPECT_EQ(dirty, expected);
}

TEST(ModelBackend, BreaksARingThatItCannotLog) {
  ModelFront front(without_status());
  front.set_up({kFeatureLogAll});
  const UniqueFd file(::memfd_create("log", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  front.send(Request::kSetLogBase, wire::Log{8, 0}, {file});  // 256 KiB
  ASSERT_EQ(front.reply_u64(), 0u);
  HandRing ring(front);
  ring.start();
  ring.put_block(kIn, 0, 512, true);
  ring.offer(0);
  EXPECT_TRUE(front.until([&] { return front.backend().ring(0).broken; }));
  EXPECT_THAT(front.backend().trouble(), HasSubstr("beyond a dirty log"));
}

TEST(ModelBackend, AllowsOnlyTheLogToBeSwitchedWhileARingRuns) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  const FeatureSet now = front.backend().accepted_features();
  FeatureSet other = now;
  EXPECT_EQ(front.ask(Request::kSetFeatures, other.set(kFeatureLogAll).low()),
            0u);
  EXPECT_EQ(
      front.ask(Request::kSetFeatures, other.set(kFeatureIndirectDesc).low()),
      1u);
}

TEST(ModelBackend, ReadsItsConfigurationAndZeroesBehindIt) {
  ModelFront front;
  front.set_up();
  std::vector<std::byte> request(12 + 256);
  const wire::ConfigHead head = {0, 256, 0};
  std::memcpy(request.data(), &head, sizeof(head));
  front.send(Request::kGetConfig, request);
  const auto frame = front.reply();
  ASSERT_TRUE(frame.has_value());
  ASSERT_EQ(frame->payload.size(), request.size());
  uint64_t sectors = 0;
  std::memcpy(&sectors, frame->payload.data() + 12, sizeof(sectors));
  EXPECT_EQ(sectors, 2048u);
  EXPECT_EQ(frame->payload.back(), std::byte{0});
}

TEST(ModelBackend, AnswersAConfigurationItDoesNotHaveWithNothing) {
  ModelFront front;
  front.set_up();
  front.send(Request::kGetConfig, ConfigMessage{{254, 4, 0}, {}});
  const auto frame = front.reply();
  ASSERT_TRUE(frame.has_value());
  EXPECT_TRUE(frame->payload.empty());
}

TEST(ModelBackend, TellsAConfigurationChangeOnlyWhileARingRuns) {
  ModelFront front(without_status());
  front.set_up();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd theirs(ends[1]);
  ASSERT_EQ(front.ask(Request::kSetBackendReqFd, {theirs}), 0u);
  ModelSocket channel{UniqueFd(ends[0])};
  ASSERT_TRUE(front.disk().resize(2 << 20).ok());
  front.backend().config_changed();
  front.settle();
  EXPECT_FALSE(channel.receive()->has_value());

  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 4095, 512, true), 0);
  front.settle();
  const auto told = channel.receive();
  ASSERT_TRUE(told.ok() && told->has_value());
  EXPECT_EQ((*told)->header.request,
            user::to_int(user::BackendRequest::kConfigChangeMsg));
  const uint64_t success = 0;
  ASSERT_TRUE(
      channel.send((*told)->header.request, 5, wire::bytes_of(success)).ok());
  EXPECT_TRUE(
      front.until([&] { return front.backend().counters().config_acks == 1; }));
}

TEST(ModelBackend, ForgetsEverythingButTheConnectionWhenReset) {
  ModelFront front(without_status());
  front.set_up();
  HandRing ring(front);
  ring.start();
  EXPECT_EQ(ring.block(kIn, 0, 512, true), 0);
  EXPECT_EQ(front.ask(Request::kResetDevice), 0u);
  EXPECT_FALSE(front.backend().ring(0).started);
  EXPECT_FALSE(front.backend().ring(0).enabled);
  EXPECT_EQ(front.backend().memory_regions(), 1u);
  EXPECT_TRUE(front.backend().accepted_features().empty());
}

TEST(ModelBackend, DoesWhatATestSaysInsteadOfAMessage) {
  ModelOptions options;
  options.on_message = [](const ModelMessage& message) {
    ModelVerdict verdict;
    if (message.request == user::to_int(Request::kGetQueueNum)) {
      verdict.delay = std::chrono::milliseconds(5);
    }
    if (message.request == user::to_int(Request::kSetVringNum)) {
      verdict.kind = ModelVerdict::Kind::kRefuse;
    }
    if (message.request == user::to_int(Request::kSetVringBase)) {
      verdict.kind = ModelVerdict::Kind::kHangUp;
    }
    return verdict;
  };
  ModelFront front(options);
  front.set_up();
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(front.get(Request::kGetQueueNum), 4u);
  EXPECT_GE(std::chrono::steady_clock::now() - before,
            std::chrono::milliseconds(5));
  EXPECT_EQ(front.ask(Request::kSetVringNum, VringState{0, 16}), 1u);
  front.send(Request::kSetVringBase, VringState{0, 0});
  EXPECT_TRUE(front.hung_up());
}

TEST(ModelBackend, ServesOneAfterAnotherOnAThreadOfItsOwn) {
  const std::string path =
      ::testing::TempDir() + absl::StrCat("model-", ::getpid(), ".sock");
  auto disk = *ModelBlk::on_memory(1 << 20);
  ModelBackend backend(disk.get());
  ASSERT_TRUE(backend.listen_on(path).ok());
  ASSERT_TRUE(backend.start_thread().ok());
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  for (int round = 0; round < 3; ++round) {
    const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address),
                        sizeof(address)),
              0);
    const wire::Header header = {user::to_int(Request::kGetFeatures), 1, 0};
    ASSERT_EQ(::send(socket.get(), &header, sizeof(header), MSG_NOSIGNAL), 12);
    char answer[20];
    EXPECT_EQ(::recv(socket.get(), answer, sizeof(answer), MSG_WAITALL), 20);
  }
  backend.stop_thread();
  EXPECT_EQ(backend.counters().connections, 3u);
}

TEST(ModelBackend, ReplacesALeftoverSocketAndNothingElse) {
  const std::string path =
      ::testing::TempDir() + absl::StrCat("left-", ::getpid());
  auto disk = *ModelBlk::on_memory(1 << 20);
  {
    const UniqueFd file(::open(path.c_str(), O_CREAT | O_RDWR, 0600));
    ModelBackend backend(disk.get());
    EXPECT_TRUE(absl::IsAlreadyExists(backend.listen_on(path)));
  }
  EXPECT_EQ(::unlink(path.c_str()), 0) << "it is still there";
  ModelBackend first(disk.get());
  EXPECT_TRUE(first.listen_on(path).ok());
  ModelBackend second(disk.get());
  EXPECT_TRUE(second.listen_on(path).ok());
}

}  // namespace
}  // namespace vhost::testing
