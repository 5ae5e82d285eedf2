// SPDX-License-Identifier: Apache-2.0
#include "backends/user/backend_channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/user/user_peer.h"

namespace vhost::user {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint32_t kAsk = wire::kVersion | wire::kNeedReplyFlag;
constexpr uint32_t kTell = wire::kVersion;

UniqueFd any_fd() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

// Keeps what it is asked, and says no if told to.
class FakeHost final : public BackendChannel::Host, public BackendServices {
 public:
  std::vector<std::string> journal;
  absl::Status answer;

  void on_config_changed() override { journal.emplace_back("config changed"); }
  absl::Status on_vring_call(BackendQueue vq) override {
    return note(absl::StrCat("call ", to_int(vq)));
  }
  absl::Status on_vring_error(BackendQueue vq) override {
    return note(absl::StrCat("error ", to_int(vq)));
  }
  absl::Status on_iotlb_miss(uint64_t iova, IotlbAccess access) override {
    return note(absl::StrCat("miss ", iova, " ", static_cast<int>(access)));
  }
  absl::Status on_host_notifier(BackendQueue vq,
                                HostNotifierArea area) override {
    return note(absl::StrCat("notifier ", to_int(vq), " ", area.offset, "+",
                             area.size, area.fd.valid() ? " fd" : ""));
  }
  BackendServices& services() override { return *this; }

  void iotlb_access_failed(uint64_t iova, IotlbAccess access) override {
    journal.push_back(
        absl::StrCat("access failed ", iova, " ", static_cast<int>(access)));
  }
  absl::Status map_shared_memory(const SharedMemoryMapping& mapping,
                                 UniqueFd fd) override {
    return note(absl::StrCat("map ", mapping.shmid, " ", mapping.fd_offset, " ",
                             mapping.shm_offset, "+", mapping.length,
                             mapping.writable ? " rw" : " ro",
                             fd.valid() ? " fd" : ""));
  }
  absl::Status unmap_shared_memory(
      const SharedMemoryMapping& mapping) override {
    return note(absl::StrCat("unmap ", mapping.shmid, " ", mapping.shm_offset,
                             "+", mapping.length));
  }
  absl::Status add_shared_object(const ObjectUuid& uuid) override {
    return note(absl::StrCat("add ", uuid[0]));
  }
  absl::Status remove_shared_object(const ObjectUuid& uuid) override {
    return note(absl::StrCat("remove ", uuid[0]));
  }
  absl::StatusOr<UniqueFd> look_up_shared_object(
      const ObjectUuid& uuid) override {
    const absl::Status status = note(absl::StrCat("look up ", uuid[0]));
    if (!status.ok()) return status;
    return any_fd();
  }

 private:
  absl::Status note(std::string what) {
    journal.push_back(std::move(what));
    return answer;
  }
};

struct Rig {
  explicit Rig(uint64_t protocol = ~uint64_t{0})
      : channel(protocol, &host, &recorder) {
    channel.set_features({kFeatureAccessPlatform});
  }

  FakeHost host;
  MessageRecorder recorder{8};
  BackendChannel channel;

  absl::Status receive(std::span<const std::byte> bytes,
                       std::vector<UniqueFd> fds = {}) {
    const auto space = channel.input_space();
    if (space.size() < bytes.size()) {
      return absl::ResourceExhaustedError("no room");
    }
    std::memcpy(space.data(), bytes.data(), bytes.size());
    channel.received(bytes.size(), std::move(fds));
    return channel.serve(MonotonicTime());
  }
  template <wire::WireStruct T>
  absl::Status ask(BackendRequest id, const T& payload,
                   std::vector<UniqueFd> fds = {}, uint32_t flags = kAsk) {
    return receive(message(to_int(id), flags, wire::bytes_of(payload)),
                   std::move(fds));
  }

  // The values of the answers, in order; their requests must be in `ids`.
  std::vector<uint64_t> answers() {
    std::vector<uint64_t> out;
    for (;;) {
      const BackendChannel::Segment segment = channel.next_segment();
      if (segment.bytes.empty()) return out;
      for (size_t at = 0; at < segment.bytes.size(); at += 20) {
        const auto header =
            wire::read_prefix<wire::Header>(segment.bytes.subspan(at));
        EXPECT_EQ(header->flags, kReplyFlags);
        EXPECT_EQ(header->size, 8u);
        out.push_back(
            *wire::read_prefix<uint64_t>(segment.bytes.subspan(at + 12)));
      }
      channel.sent(segment.bytes.size());
    }
  }
};

std::vector<UniqueFd> one_fd() {
  std::vector<UniqueFd> out;
  out.push_back(any_fd());
  return out;
}

wire::SharedObject object(uint8_t first) {
  wire::SharedObject out = {};
  out.uuid[0] = first;
  return out;
}

wire::Mmap mapping() {
  wire::Mmap out = {};
  out.shmid = 2;
  out.fd_offset = 10;
  out.shm_offset = 20;
  out.len = 30;
  out.flags = wire::kMmapWritable;
  return out;
}

TEST(BackendChannel, ServesEveryRequest) {
  Rig rig;
  wire::Iotlb miss = {};
  miss.iova = 77;
  miss.permissions = 2;
  miss.type = wire::kIotlbMiss;
  wire::Iotlb fail = miss;
  fail.type = wire::kIotlbAccessFail;
  const wire::VringState queue = {.index = 3, .num = 0};
  const wire::VringArea area = {.index_and_flags = 5, .size = 4, .offset = 8};
  const wire::VringArea gone = {
      .index_and_flags = 5 | wire::kNoFdFlag, .size = 4, .offset = 8};
  using enum BackendRequest;

  EXPECT_TRUE(rig.ask(kIotlbMsg, miss).ok());
  EXPECT_TRUE(rig.ask(kIotlbMsg, fail).ok());
  EXPECT_TRUE(rig.receive(message(to_int(kConfigChangeMsg), kAsk)).ok());
  EXPECT_TRUE(rig.ask(kVringHostNotifierMsg, area, one_fd()).ok());
  EXPECT_TRUE(rig.ask(kVringHostNotifierMsg, gone).ok());
  EXPECT_TRUE(rig.ask(kVringCall, queue).ok());
  EXPECT_TRUE(rig.ask(kVringErr, queue).ok());
  EXPECT_TRUE(rig.ask(kSharedObjectAdd, object(1)).ok());
  EXPECT_TRUE(rig.ask(kSharedObjectRemove, object(2)).ok());
  EXPECT_TRUE(rig.ask(kSharedObjectLookup, object(3)).ok());
  EXPECT_TRUE(rig.ask(kShmemMap, mapping(), one_fd()).ok());
  EXPECT_TRUE(rig.ask(kShmemUnmap, mapping()).ok());

  EXPECT_THAT(rig.host.journal,
              ElementsAre("miss 77 2", "access failed 77 2", "config changed",
                          "notifier 5 8+4 fd", "notifier 5 0+0", "call 3",
                          "error 3", "add 1", "remove 2", "look up 3",
                          "map 2 10 20+30 rw fd", "unmap 2 20+30"));
  EXPECT_EQ(rig.answers(), std::vector<uint64_t>(12, 0));
}

TEST(BackendChannel, AnswersOnlyWhereItIsAsked) {
  Rig rig;
  EXPECT_TRUE(
      rig.receive(message(to_int(BackendRequest::kConfigChangeMsg), kTell))
          .ok());
  EXPECT_THAT(rig.host.journal, ElementsAre("config changed"));
  EXPECT_THAT(rig.answers(), IsEmpty());
}

TEST(BackendChannel, AlwaysAnswersALookUp) {
  Rig rig;
  EXPECT_TRUE(
      rig.ask(BackendRequest::kSharedObjectLookup, object(1), {}, kTell).ok());
  EXPECT_EQ(rig.channel.next_segment().fds.size(), 1u);
  EXPECT_THAT(rig.answers(), ElementsAre(0));
  rig.host.answer = absl::NotFoundError("no such object");
  EXPECT_TRUE(
      rig.ask(BackendRequest::kSharedObjectLookup, object(1), {}, kTell).ok());
  EXPECT_TRUE(rig.channel.next_segment().fds.empty());
  EXPECT_THAT(rig.answers(), ElementsAre(1));
}

TEST(BackendChannel, SendsADescriptorWithTheFirstByteOfItsAnswer) {
  Rig rig;
  using enum BackendRequest;
  EXPECT_TRUE(rig.receive(message(to_int(kConfigChangeMsg), kAsk)).ok());
  EXPECT_TRUE(rig.ask(kSharedObjectLookup, object(1)).ok());
  EXPECT_TRUE(rig.receive(message(to_int(kConfigChangeMsg), kAsk)).ok());
  EXPECT_EQ(rig.channel.next_segment().bytes.size(), 20u);
  EXPECT_TRUE(rig.channel.next_segment().fds.empty());
  rig.channel.sent(20);
  EXPECT_EQ(rig.channel.next_segment().bytes.size(), 40u);
  EXPECT_EQ(rig.channel.next_segment().fds.size(), 1u);
  rig.channel.sent(1);
  EXPECT_TRUE(rig.channel.next_segment().fds.empty());
  rig.channel.sent(39);
  EXPECT_TRUE(rig.channel.next_segment().bytes.empty());
}

TEST(BackendChannel, SaysNoWhereTheHostDoes) {
  Rig rig;
  rig.host.answer = absl::InvalidArgumentError("overlaps");
  EXPECT_TRUE(rig.ask(BackendRequest::kShmemUnmap, mapping()).ok());
  EXPECT_THAT(rig.answers(), ElementsAre(1));
}

TEST(BackendChannel, RefusesWhatWasNotNegotiatedAndGoesOn) {
  Rig rig(bit_mask(kProtocolConfig));
  EXPECT_TRUE(rig.ask(BackendRequest::kShmemUnmap, mapping()).ok());
  EXPECT_TRUE(rig.ask(BackendRequest::kVringCall,
                      wire::VringState{.index = 1, .num = 0})
                  .ok());
  EXPECT_TRUE(
      rig.receive(message(to_int(BackendRequest::kConfigChangeMsg), kAsk))
          .ok());
  EXPECT_THAT(rig.host.journal, ElementsAre("config changed"));
  EXPECT_THAT(rig.answers(), ElementsAre(1, 1, 0));
}

TEST(BackendChannel, RefusesTranslationsWithoutAnIommu) {
  Rig rig;
  rig.channel.set_features({});
  wire::Iotlb miss = {};
  miss.type = wire::kIotlbMiss;
  EXPECT_TRUE(rig.ask(BackendRequest::kIotlbMsg, miss).ok());
  EXPECT_THAT(rig.host.journal, IsEmpty());
  EXPECT_THAT(rig.answers(), ElementsAre(1));
}

TEST(BackendChannel, RefusesImpossibleValues) {
  Rig rig;
  wire::Iotlb update = {};
  update.type = wire::kIotlbUpdate;
  wire::Iotlb access = {};
  access.type = wire::kIotlbMiss;
  access.permissions = 4;
  wire::Mmap wraps = mapping();
  wraps.shm_offset = ~uint64_t{0};
  wire::Mmap empty = mapping();
  empty.len = 0;
  using enum BackendRequest;
  EXPECT_TRUE(rig.ask(kIotlbMsg, update).ok());
  EXPECT_TRUE(rig.ask(kIotlbMsg, access).ok());
  EXPECT_TRUE(rig.ask(kShmemMap, wraps, one_fd()).ok());
  EXPECT_TRUE(rig.ask(kShmemUnmap, empty).ok());
  EXPECT_TRUE(rig.ask(kVringErr, wire::VringState{.index = 0, .num = 1}).ok());
  EXPECT_THAT(rig.host.journal, IsEmpty());
  EXPECT_EQ(rig.answers(), std::vector<uint64_t>(5, 1));
}

TEST(BackendChannel, ServesARequestHoweverItIsSplit) {
  const ByteVector bytes = message(to_int(BackendRequest::kShmemUnmap), kAsk,
                                   wire::bytes_of(mapping()));
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    Rig rig;
    const std::span<const std::byte> all = bytes;
    EXPECT_TRUE(rig.receive(all.first(cut)).ok());
    EXPECT_TRUE(rig.receive(all.subspan(cut)).ok());
    EXPECT_THAT(rig.answers(), ElementsAre(0)) << cut;
  }
}

TEST(BackendChannel, AMalformedMessageEndsIt) {
  const ByteVector request = message(to_int(BackendRequest::kShmemUnmap), kAsk,
                                     wire::bytes_of(mapping()));
  const std::vector<ByteVector> bad = {
      message(0, kAsk),
      message(11, kAsk),
      message(to_int(BackendRequest::kConfigChangeMsg), 5),
      message(to_int(BackendRequest::kConfigChangeMsg), 2),
      message(to_int(BackendRequest::kConfigChangeMsg), 0x11),
      message(to_int(BackendRequest::kConfigChangeMsg), kAsk,
              ByteVector(8, std::byte{0})),
      message(to_int(BackendRequest::kShmemUnmap), kAsk,
              ByteVector(39, std::byte{0})),
  };
  for (const ByteVector& bytes : bad) {
    Rig rig;
    EXPECT_EQ(rig.receive(bytes).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(rig.channel.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(rig.host.journal, IsEmpty());
    EXPECT_TRUE(rig.channel.input_space().empty());
  }
}

TEST(BackendChannel, TheWrongNumberOfDescriptorsEndsIt) {
  using enum BackendRequest;
  Rig none;
  EXPECT_FALSE(none.ask(kShmemMap, mapping()).ok());
  Rig many;
  std::vector<UniqueFd> two = one_fd();
  two.push_back(any_fd());
  const int number = two.back().get();
  EXPECT_FALSE(many.ask(kShmemMap, mapping(), std::move(two)).ok());
  EXPECT_LT(::fcntl(number, F_GETFD), 0);
  Rig uncalled;
  EXPECT_FALSE(uncalled.ask(kShmemUnmap, mapping(), one_fd()).ok());
}

TEST(BackendChannel, DescriptorsNeedTheirFeature) {
  Rig rig(~bit_mask(kProtocolBackendSendFd));
  EXPECT_FALSE(rig.ask(BackendRequest::kShmemMap, mapping(), one_fd()).ok());
  EXPECT_THAT(std::string(rig.channel.status().message()),
              HasSubstr("BACKEND_SEND_FD"));
}

TEST(BackendChannel, StopsReadingFromABackEndThatReadsNoAnswers) {
  Rig rig;
  const ByteVector ask =
      message(to_int(BackendRequest::kConfigChangeMsg), kAsk);
  size_t requests = 0;
  while (!rig.channel.input_space().empty() && requests < 100'000) {
    ASSERT_TRUE(rig.receive(ask).ok());
    ++requests;
  }
  EXPECT_LT(requests, 2000u);
  EXPECT_EQ(rig.answers().size(), requests);
  EXPECT_FALSE(rig.channel.input_space().empty());
}

}  // namespace
}  // namespace vhost::user
