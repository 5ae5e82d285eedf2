// SPDX-License-Identifier: Apache-2.0
//
// The model back-end and the inflight area: what it refuses, and what becomes
// of requests when it is killed after any of its stores.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/inflight_guest.h"
#include "vhostdev/inflight.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
namespace wire = user::wire;

constexpr uint32_t kRequests = 9;
constexpr auto kForEver = std::chrono::hours(1);

ModelOptions options() {
  ModelOptions out;
  out.without_protocol_features = user::bit_mask(kProtocolStatus);
  out.newest_first = true;
  return out;
}

// A disk that remembers which sectors were written, and that nothing is
// written that the driver saw completed.
class WitnessDisk final : public ModelDevice {
 public:
  uint32_t device_id() const override { return 2; }
  FeatureSet features() const override { return {}; }
  void accept_features(FeatureSet) override {}
  std::vector<std::byte> config() const override { return {}; }
  absl::Status write_config(uint32_t, std::span<const std::byte>,
                            bool) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override {
    uint64_t header[2] = {};
    copy_from(request.readable, std::as_writable_bytes(std::span(header)));
    const auto number = static_cast<uint32_t>(header[1]);
    EXPECT_EQ(std::count(guest->seen().begin(), guest->seen().end(), number), 0)
        << "request " << number << " ran after the driver saw it completed";
    runs.resize(std::max<size_t>(runs.size(), number + 1));
    ++runs[number];
    const std::byte ok{0};
    copy_to(request.writable, std::span(&ok, 1));
    return 1;
  }
  void reset() override {}

  InflightGuest* guest = nullptr;
  std::vector<int> runs;
};

// How often each request may have run: once, and once more for each death.
void check(const InflightGuest& guest, const WitnessDisk& disk, int deaths) {
  std::vector<uint32_t> seen = guest.seen();
  std::sort(seen.begin(), seen.end());
  ASSERT_EQ(seen.size(), kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) {
    EXPECT_EQ(seen[i], i);
    EXPECT_GE(disk.runs[i], 1);
    EXPECT_LE(disk.runs[i], 1 + deaths);
  }
}

// Back-ends that die after so many stores each, and one that does not.  The
// stores of the first.
uint64_t live(const std::vector<uint64_t>& lives) {
  WitnessDisk disk;
  uint64_t first = 0;
  bool dead = false;
  ModelFront front(disk, options());
  InflightGuest guest(front, kRequests);
  disk.guest = &guest;
  for (size_t i = 0; i <= lives.size(); ++i) {
    const bool last = i == lives.size();
    uint64_t stores = 0;
    dead = false;
    ModelOptions mortal = options();
    mortal.on_store = [&] {
      ++stores;
      dead = !last && stores == lives[i];
      return !dead;
    };
    front.restart(disk, std::move(mortal));
    guest.connect();
    EXPECT_TRUE(front.until([&] { return guest.go_on() || dead; }));
    if (!dead) front.settle();
    if (i == 0) first = stores;
  }
  check(guest, disk, static_cast<int>(lives.size()));
  return first;
}

TEST(ModelInflight, NothingIsLostWhereNobodyDies) { EXPECT_GT(live({}), 80u); }

TEST(ModelInflight, DeathAfterAnyStoreIsSurvived) {
  const uint64_t stores = live({});
  for (uint64_t kill = 1; kill <= stores; ++kill) {
    live({kill});
    ASSERT_FALSE(HasFailure()) << "after store " << kill;
  }
}

TEST(ModelInflight, DeathAfterAnyStoreOfTheRecoveryIsSurvivedToo) {
  const uint64_t stores = live({});
  for (uint64_t kill = 1; kill <= stores; kill += 3) {
    for (const uint64_t again : {1, 2, 3, 4, 6, 9}) {
      live({kill, again});
      ASSERT_FALSE(HasFailure()) << "after stores " << kill << ", " << again;
    }
  }
}

TEST(ModelInflight, ADeadBackEndSaysNothingMore) {
  ModelOptions mortal = options();
  mortal.on_store = [] { return false; };
  ModelFront front(mortal);
  InflightGuest guest(front, kRequests);
  guest.connect();
  EXPECT_TRUE(front.until([&] { return !front.backend().connected(); }));
  guest.go_on();
  front.settle();
  EXPECT_EQ(guest.ring().used_idx(), 0);
  EXPECT_FALSE(guest.ring().called());
  EXPECT_FALSE(guest.ring().failed());
}

// -- GET_INFLIGHT_FD and SET_INFLIGHT_FD -------------------------------------

wire::Inflight about(uint16_t queues, uint16_t size) {
  return {.mmap_size = inflight_area_size(RingFormat::kSplit, queues, size),
          .mmap_offset = 0,
          .num_queues = queues,
          .queue_size = size,
          .padding = 0};
}

std::optional<ModelFrame> get_area(ModelFront& front, size_t payload) {
  const wire::Inflight asked = about(2, 16);
  front.send(Request::kGetInflightFd, wire::bytes_of(asked).first(payload));
  return front.reply();
}

TEST(ModelInflight, AnswersWithASealedAreaAsLongAsItWasAsked) {
  ModelFront front(options());
  front.set_up();
  for (const size_t payload : {20, 24}) {
    const std::optional<ModelFrame> frame = get_area(front, payload);
    ASSERT_TRUE(frame.has_value());
    EXPECT_EQ(frame->payload.size(), payload);
    ASSERT_EQ(frame->fds.size(), 1u);
    uint64_t size = 0;
    std::memcpy(&size, frame->payload.data(), sizeof(size));
    EXPECT_EQ(size, 2 * inflight_region_size(RingFormat::kSplit, 16));
    EXPECT_NE(::ftruncate(frame->fds[0].get(), 0), 0);
  }
}

TEST(ModelInflight, HangsUpOnAnAreaForMoreQueuesThanItHas) {
  ModelFront front(options());
  front.set_up();
  front.send(Request::kGetInflightFd, about(5, 16));
  EXPECT_TRUE(front.hung_up());
}

TEST(ModelInflight, TakesAnAreaOf20BytesAndOf24) {
  ModelFront front(options());
  front.set_up();
  const std::optional<ModelFrame> frame = get_area(front, 24);
  ASSERT_TRUE(frame.has_value());
  const wire::Inflight all = about(2, 16);
  for (const size_t payload : {20, 24}) {
    front.send(Request::kSetInflightFd, wire::bytes_of(all).first(payload),
               {frame->fds[0]}, wire::kVersion | wire::kNeedReplyFlag);
    EXPECT_EQ(front.reply_u64(), 0u) << payload;
  }
}

// A file of two regions for 16 descriptors, whose second one is a lie.
class LyingArea : public ::testing::Test {
 protected:
  LyingArea() : front_(options()) {
    front_.set_up();
    file_ = UniqueFd(::memfd_create("area", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(file_.get(), 4096), 0);
  }
  template <typename T>
  void poke(size_t offset, T value) {
    const size_t region = inflight_region_size(RingFormat::kSplit, 16);
    EXPECT_EQ(::pwrite(file_.get(), &value, sizeof(value),
                       static_cast<off_t>(region + offset)),
              static_cast<ssize_t>(sizeof(value)));
  }
  void expect_refused(const wire::Inflight& what, const char* why) {
    EXPECT_EQ(front_.ask(Request::kSetInflightFd, what, {file_}), 1u);
    EXPECT_THAT(front_.backend().trouble(), HasSubstr(why));
  }

  ModelFront front_;
  UniqueFd file_;
};

TEST_F(LyingArea, OfAnUnknownVersionIsRefused) {
  poke<uint16_t>(8, 7);
  expect_refused(about(2, 16), "vq 1: inflight region of version 7");
}

TEST_F(LyingArea, WithUnknownFeaturesIsRefused) {
  poke<uint16_t>(8, 1);
  poke<uint64_t>(0, 4);
  expect_refused(about(2, 16), "features 0x4");
}

TEST_F(LyingArea, OfAnotherQueueSizeIsRefused) {
  poke<uint16_t>(8, 1);
  poke<uint16_t>(10, 32);
  expect_refused(about(2, 16), "for 32 descriptors, not 16");
}

TEST_F(LyingArea, ThatIsTooSmallIsRefused) {
  wire::Inflight small = about(2, 16);
  small.mmap_size -= 64;
  expect_refused(small, "for an area of");
  expect_refused(about(2, 1024), "");
}

TEST_F(LyingArea, OfNoQueuesOrTooManyIsRefused) {
  expect_refused(about(0, 16), "0 queues");
  expect_refused(about(5, 16), "5 queues");
  expect_refused(about(2, 0), "of 0 descriptors");
}

TEST_F(LyingArea, ThatIsForSmallerRingsBreaksTheRing) {
  ASSERT_EQ(front_.ask(Request::kSetInflightFd, about(1, 8), {file_}), 0u);
  HandRing ring(front_);
  ring.start();
  ring.kick();
  EXPECT_TRUE(front_.until([&] { return ring.failed(); }));
}

TEST_F(LyingArea, ThatContradictsTheRingBreaksIt) {
  ASSERT_EQ(front_.ask(Request::kSetInflightFd, about(2, 16), {file_}), 0u);
  poke<uint16_t>(8, 1);
  poke<uint16_t>(10, 16);
  poke<uint8_t>(16, 1);
  poke<uint16_t>(14, 100);  // The used index, of a ring that is at 0.
  HandRing ring(front_, 1);
  ring.start();
  ring.kick();
  EXPECT_TRUE(front_.until([&] { return ring.failed(); }));
}

TEST(ModelInflight, TakesNoAreaWhileARingRuns) {
  ModelFront front(options());
  InflightGuest guest(front, 1);
  guest.connect();
  ASSERT_TRUE(front.until([&] { return guest.go_on(); }));
  EXPECT_EQ(front.ask(Request::kSetInflightFd, guest.about(), {guest.area()}),
            1u);
}

// -- Stopping with requests in flight ----------------------------------------

TEST(ModelInflight, AStopLeavesRequestsNotedWhereThatWasAccepted) {
  ModelOptions slow = options();
  slow.vring_base_inflight = true;
  slow.latency = kForEver;
  ModelFront front(slow);
  InflightGuest guest(front, 2);
  guest.connect();
  guest.go_on();
  ASSERT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 2; }));
  EXPECT_EQ(guest.ring().get_base(), 2u);
  EXPECT_EQ(guest.ring().used_idx(), 0);

  // Nothing is written any more.
  front.backend().set_latency(std::chrono::nanoseconds(0));
  front.settle();
  EXPECT_EQ(guest.ring().used_idx(), 0);

  guest.ring().start();
  guest.ring().kick();
  EXPECT_TRUE(front.until([&] { return guest.go_on(); }));
  EXPECT_EQ(front.backend().counters().resubmitted, 2u);
}

TEST(ModelInflight, AStopWaitsWhereItWasNot) {
  ModelOptions slow = options();
  slow.latency = std::chrono::milliseconds(20);
  ModelFront front(slow);
  InflightGuest guest(front, 2);
  guest.connect();
  guest.go_on();
  ASSERT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 2; }));
  EXPECT_EQ(guest.ring().get_base(), 2u);
  EXPECT_EQ(guest.ring().used_idx(), 2);
}

TEST(ModelInflight, LeavingRequestsNeedsAnArea) {
  ModelOptions odd = options();
  odd.vring_base_inflight = true;
  ModelFront front(odd);
  front.send(Request::kSetProtocolFeatures,
             user::bit_mask(kProtocolGetVringBaseInflight));
  EXPECT_TRUE(front.hung_up());
}

TEST(ModelInflight, AResetForgetsTheArea) {
  ModelOptions slow = options();
  slow.vring_base_inflight = true;
  slow.latency = kForEver;
  ModelFront front(slow);
  InflightGuest guest(front, 2);
  guest.connect();
  guest.go_on();
  ASSERT_TRUE(
      front.until([&] { return front.backend().ring(0).in_flight == 2; }));
  EXPECT_EQ(guest.ring().get_base(), 2u);
  EXPECT_EQ(front.ask(Request::kResetDevice), 0u);
  front.set_up({}, false);
  guest.ring().start();
  guest.ring().kick();
  front.settle();
  EXPECT_EQ(front.backend().counters().resubmitted, 0u);
}

}  // namespace
}  // namespace vhost::testing
