// SPDX-License-Identifier: Apache-2.0
//
// The back-end's channel and the ways to connect, through VhostOps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/user/codec.h"
#include "backends/user/socket_io.h"
#include "tests/fakes/ops_driver.h"
#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;
using testing::Guest;
using ::testing::IsEmpty;

constexpr uint32_t kAsk = wire::kVersion | wire::kNeedReplyFlag;
constexpr uint64_t kChannel =
    bit_mask(kProtocolReplyAck) | bit_mask(kProtocolBackendReq) |
    bit_mask(kProtocolConfig) | bit_mask(kProtocolConfigureMemSlots);

// Translates iova to the same guest address, one page at a time.
class Sink final : public BackendSink, public BackendServices {
 public:
  int config_changes = 0;
  std::vector<absl::Status> lost;
  std::vector<uint64_t> asked;

  void on_config_changed() override { ++config_changes; }
  absl::Status on_vring_call(BackendQueue) override { return absl::OkStatus(); }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status& why) override { lost.push_back(why); }
  BackendServices& services() override { return *this; }
  absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                       IotlbAccess access) override {
    asked.push_back(iova);
    return IotlbEntry{
        .iova = iova, .size = 4096, .gpa = iova, .access = access};
  }
};

struct Rig {
  explicit Rig(uint64_t features = 0)
      : ops(make_vhost_user_ops(peer.address())) {
    peer.protocol_features = kChannel;
    peer.features |= features;
    ops->attach(nullptr, &sink);
    EXPECT_TRUE(drive(*ops, peer, Open{})->status.ok());
    EXPECT_TRUE(drive(*ops, peer, SetFeatures{FeatureSet::from_words(features)})
                    ->status.ok());
    peer.seen.clear();
  }

  UserPeer peer;
  Sink sink;
  std::unique_ptr<VhostOps> ops;

  void tell(const ByteVector& bytes) {
    EXPECT_EQ(send_some(peer.channel(), bytes, {}).bytes, bytes.size());
    ops->pump(std::chrono::steady_clock::now());
  }
  // The value of the next answer on the channel; empty: none came.
  std::optional<uint64_t> answer() {
    std::array<std::byte, 64> space = {};
    const Received in = receive_some(peer.channel(), space);
    if (in.bytes != 20) return std::nullopt;
    return wire::read_prefix<uint64_t>(std::span(space).subspan(12));
  }
};

TEST(BackEndChannel, TellsOfConfigurationChanges) {
  Rig rig;
  rig.tell(message(to_int(BackendRequest::kConfigChangeMsg), kAsk));
  EXPECT_EQ(rig.sink.config_changes, 1);
  EXPECT_EQ(rig.answer(), 0u);
}

TEST(BackEndChannel, IsServedWhileAVerbWaits) {
  Rig rig;
  bool asked = false;
  // Answers the main channel only once its own request was answered.
  rig.peer.instead = [&](const UserPeer::Message& in) {
    if (in.id == Request::kGetVringBase && !asked) {
      asked = true;
      rig.tell(message(to_int(BackendRequest::kConfigChangeMsg), kAsk));
      EXPECT_EQ(rig.answer(), 0u);
    }
    return ByteVector();
  };
  const auto result = drive(*rig.ops, rig.peer, Harvest{{BackendQueue{0}}});
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->status.ok());
  EXPECT_TRUE(asked);
}

TEST(BackEndChannel, EndsByItselfWhenItIsMalformed) {
  Rig rig;
  rig.tell(message(99, kAsk));
  std::array<std::byte, 64> space = {};
  EXPECT_EQ(receive_some(rig.peer.channel(), space).outcome,
            ReceiveOutcome::kEnd);
  EXPECT_THAT(rig.sink.lost, IsEmpty());
  EXPECT_TRUE(
      drive(*rig.ops, rig.peer, Harvest{{BackendQueue{0}}})->status.ok());
  EXPECT_THAT(rig.ops->recent(),
              ::testing::Contains(::testing::HasSubstr("unknown request 99")));
}

TEST(BackEndChannel, AnswersAMissWithAnUpdateOnTheMainChannel) {
  Rig rig(bit_mask(kFeatureAccessPlatform));
  const Guest guest(1);
  ASSERT_TRUE(
      drive(*rig.ops, rig.peer, UpdateMemory{guest.all_memory()})->status.ok());
  rig.peer.seen.clear();
  wire::Iotlb miss = {};
  miss.iova = Guest::kGpa + Guest::kSize - 2048;
  miss.permissions = 3;
  miss.type = wire::kIotlbMiss;
  rig.tell(
      message(to_int(BackendRequest::kIotlbMsg), kAsk, wire::bytes_of(miss)));
  EXPECT_EQ(rig.answer(), 0u);
  rig.peer.serve();
  ASSERT_THAT(rig.peer.names(), ElementsAre("IOTLB_MSG"));
  const auto update = *wire::read_prefix<wire::Iotlb>(rig.peer.seen[0].payload);
  EXPECT_EQ(update.type, wire::kIotlbUpdate);
  EXPECT_EQ(update.iova, miss.iova);
  EXPECT_EQ(update.user_address, guest.table()[0].user + Guest::kSize - 2048);
  EXPECT_EQ(update.size, 2048u);  // Cut at the end of guest memory.
  EXPECT_TRUE(
      drive(*rig.ops, rig.peer, Harvest{{BackendQueue{0}}})->status.ok());
}

// A back-end that asks and asks on its own channel and reads nothing on the
// main one: what it is sent must not grow without end.
TEST(BackEndChannel, AFloodOfMissesWaitsForTheAnswersToTheFirst) {
  Rig rig(bit_mask(kFeatureAccessPlatform));
  const Guest guest(1);
  ASSERT_TRUE(
      drive(*rig.ops, rig.peer, UpdateMemory{guest.all_memory()})->status.ok());
  wire::Iotlb miss = {};
  miss.iova = Guest::kGpa;
  miss.permissions = 3;
  miss.type = wire::kIotlbMiss;
  const ByteVector one = message(to_int(BackendRequest::kIotlbMsg),
                                 wire::kVersion, wire::bytes_of(miss));
  size_t sent = 0;
  for (; sent < 100'000; ++sent) {
    const Sent out = send_some(rig.peer.channel(), one, {});
    if (out.outcome != SendOutcome::kSent || out.bytes != one.size()) break;
    rig.ops->pump(std::chrono::steady_clock::now());
  }
  EXPECT_LT(sent, 100'000u) << "nothing held it back";
  EXPECT_LT(rig.sink.asked.size(), 256u);

  // It goes on when the back-end does its part.
  const size_t before = rig.sink.asked.size();
  for (int i = 0; i < 10; ++i) {
    rig.peer.serve();
    rig.ops->pump(std::chrono::steady_clock::now());
  }
  EXPECT_GT(rig.sink.asked.size(), before);
  EXPECT_THAT(rig.sink.lost, IsEmpty());
}

TEST(BackEndChannel, RefusesAMissOutsideGuestMemory) {
  Rig rig(bit_mask(kFeatureAccessPlatform));
  wire::Iotlb miss = {};
  miss.type = wire::kIotlbMiss;
  rig.tell(
      message(to_int(BackendRequest::kIotlbMsg), kAsk, wire::bytes_of(miss)));
  EXPECT_EQ(rig.answer(), 1u);
  EXPECT_EQ(rig.peer.count(Request::kIotlbMsg), 0u);
}

// A folder with a socket path, gone with the test.
struct Folder {
  Folder() {
    char name[] = "/tmp/vhostdev-user-XXXXXX";
    path = ::mkdtemp(name) != nullptr ? name : "";
  }
  ~Folder() { ::rmdir(path.c_str()); }
  std::string path;
  std::string socket() const { return absl::StrCat(path, "/s"); }
};

TEST(Connecting, ToAListeningBackEnd) {
  const Folder folder;
  auto listener = Listener::listen_on(folder.socket());
  ASSERT_TRUE(listener.ok());
  auto ops = make_vhost_user_ops(ConnectTo{folder.socket()});
  std::optional<BatchResult> result;
  const Pending pending =
      ops->submit(Open{}, MonotonicTime::max(),
                  [&result](BatchResult r) { result = std::move(r); });
  auto socket = listener->accept();
  ASSERT_TRUE(socket.ok() && socket->has_value());
  UserPeer peer(**std::move(socket));
  for (int i = 0; i < 10 && !result.has_value(); ++i) {
    peer.serve();
    ops->pump(std::chrono::steady_clock::now());
  }
  ASSERT_TRUE(result.has_value());
  EXPECT_TRUE(result->status.ok()) << result->status;
}

TEST(Connecting, ToNobodyIsUnavailableAtOnce) {
  const Folder folder;
  auto ops = make_vhost_user_ops(ConnectTo{folder.socket()});
  UserPeer nobody;
  EXPECT_EQ(drive(*ops, nobody, Open{})->status.code(),
            absl::StatusCode::kUnavailable);
}

// Opens `ops`, which listens, from a back-end with so many memory slots.
absl::Status open_from(VhostOps& ops, const std::string& path, uint64_t slots,
                       std::unique_ptr<UserPeer>& peer) {
  std::optional<BatchResult> result;
  const Pending pending =
      ops.submit(Open{}, MonotonicTime::max(),
                 [&result](BatchResult r) { result = std::move(r); });
  auto socket = connect_to(path);
  if (!socket.ok()) return socket.status();
  peer = std::make_unique<UserPeer>(**std::move(socket));
  peer->protocol_features = bit_mask(kProtocolConfigureMemSlots);
  peer->memory_slots = slots;
  for (int i = 0; i < 20 && !result.has_value(); ++i) {
    ops.pump(std::chrono::steady_clock::now());
    peer->serve();
  }
  return result.has_value() ? result->status
                            : absl::InternalError("never completed");
}

TEST(Listening, TakesABackEndAndItsSuccessor) {
  const Folder folder;
  auto ops = make_vhost_user_ops(ListenOn{folder.socket()});
  std::unique_ptr<UserPeer> peer;
  ASSERT_TRUE(open_from(*ops, folder.socket(), 32, peer).ok());
  peer->close();
  ops->pump(std::chrono::steady_clock::now());
  EXPECT_TRUE(open_from(*ops, folder.socket(), 64, peer).ok());
  peer->close();
  ops->pump(std::chrono::steady_clock::now());
  // Memory slots may not become fewer.
  EXPECT_EQ(open_from(*ops, folder.socket(), 32, peer).code(),
            absl::StatusCode::kFailedPrecondition);
  ops.reset();
  EXPECT_EQ(::access(folder.socket().c_str(), F_OK), -1);
}

TEST(Listening, HasTheDeadlineOfItsOpen) {
  const Folder folder;
  auto ops = make_vhost_user_ops(ListenOn{folder.socket()});
  std::optional<BatchResult> result;
  const MonotonicTime now = std::chrono::steady_clock::now();
  const Pending pending = ops->submit(
      Open{}, now, [&result](BatchResult r) { result = std::move(r); });
  ops->pump(now + std::chrono::seconds(5));
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->status.code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace vhost::user
