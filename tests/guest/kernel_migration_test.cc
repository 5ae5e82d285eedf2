// SPDX-License-Identifier: Apache-2.0
//
// A guest whose network card is the real vhost-net moves while frames arrive.
// It tells which pages its driver writes; what the kernel writes, the kernel's
// dirty log alone knows.  All of memory is compared at the end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/guest/net_guest.h"
#include "vhostdev/migration.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kReceive = 0;
constexpr uint32_t kSend = 1;
constexpr uint32_t kOffered = 48;  // Buffers that the card has.
constexpr size_t kFrameSize = 1000;
constexpr Duration kBetweenFrames = std::chrono::milliseconds(10);
// Memory that nothing else uses.
constexpr uint64_t kFiller = NetGuest::kRam / 2;
constexpr uint64_t kFillerSize = 512 << 10;

// What the driver writes while it moves: its parts of the rings.
class DriverPages final : public DirtyProvider {
 public:
  absl::string_view name() const override { return "driver"; }
  absl::Status enable() override { return absl::OkStatus(); }
  absl::Status sync(DirtySink& sink) override {
    for (const uint32_t queue : {kReceive, kSend}) {
      tell_dirty(NetGuest::ring_page(queue, 0) * NetGuest::kPage,
                 2 * NetGuest::kPage, sink);
    }
    return absl::OkStatus();
  }
  void disable() override {}
};

// The network card, as a migration sees it.
class Card final : public MigrationDevice {
 public:
  explicit Card(NetGuest& guest) : guest_(guest) {}

  std::string name() const override { return "net0"; }
  VhostDev& dev() override { return guest_.dev(); }
  DeviceManifest describe() const override {
    DeviceManifest out;
    out.virtio_id = kDeviceIdNet;
    out.device_class = "virtio-net";
    out.queue_sizes.assign(2, NetGuest::kDepth);
    out.offered = {kFeatureVersion1};
    out.acked = {kFeatureVersion1};
    return out;
  }
  absl::StatusOr<DeviceCore> save_core() override {
    DeviceCore core;
    core.status = kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk |
                  kStatusDriverOk;
    core.features = {kFeatureVersion1};
    for (const VirtqueueConfig& queue : guest_.device().queues) {
      core.queues.push_back({.num = queue.num,
                             .desc = queue.desc_gpa,
                             .avail = queue.avail_gpa,
                             .used = queue.used_gpa,
                             .ready = true,
                             .enabled = true});
    }
    return core;
  }
  absl::Status load_core(const DeviceCore& core) override {
    if (core.queues.size() != 2) {
      return absl::InvalidArgumentError("a card of other queues");
    }
    return guest_.accept_features();
  }

 private:
  NetGuest& guest_;
};

// The frames that go to the guest, wherever it is, and those it got: in their
// order, some lost while it moved.
class Frames {
 public:
  Frame next() { return make_frame(kFrameSize, ++sent_); }
  uint64_t sent() const { return sent_; }
  uint64_t received() const { return received_; }

  void take(const Frame& frame) {
    do {
      ASSERT_LT(last_, sent_) << "nobody sent this frame";
    } while (frame != make_frame(kFrameSize, ++last_));
    ++received_;
  }

 private:
  uint64_t sent_ = 0;
  uint64_t last_ = 0;
  uint64_t received_ = 0;
};

// A guest that takes what arrives and gives its buffers again; most of the time
// it is behind, and frames wait in its memory.
class MovingGuest final : public MigrationVmm {
 public:
  explicit MovingGuest(Frames& frames) : frames_(frames) {}

  void run() {
    // Enough to move for two seconds, in which frames arrive.
    std::memset(net.memory().translate(kFiller, kFillerSize), 0x5a,
                kFillerSize);
    ASSERT_EQ(net.run(), absl::OkStatus());
    ASSERT_EQ(net.offer(0, kOffered), absl::OkStatus());
    runs = true;
  }

  // A turn of its loop, and some of its work.
  void turn() {
    net.turn();
    if (on_turn) on_turn();
    const MonotonicTime now = std::chrono::steady_clock::now();
    if (!runs || now < next_) return;
    next_ = now + kBetweenFrames;
    EXPECT_TRUE(net.tap(0).send(frames_.next()));
    if (frames_.sent() % 8 == 0) take_frames();
  }

  std::vector<MigrationRam> ram() override {
    const MemorySection section = net.memory().sections().front();
    return {{.id = 0,
             .name = "ram",
             .gpa = section.gpa,
             .size = section.size,
             .region = section.region,
             .offset_in_region = section.offset_in_region}};
  }
  std::vector<MigrationDevice*> devices() override { return {&card_}; }
  std::vector<DirtyProvider*> dirty_providers() override { return {&pages_}; }
  void pause_guest(bool, Completion done) override {
    set_runs(false, std::move(done));
  }
  void resume_guest(Completion done) override {
    set_runs(true, std::move(done));
  }
  absl::StatusOr<std::string> save_guest() override { return net.save(); }
  absl::Status load_guest(absl::string_view bytes) override {
    return net.load(bytes);
  }
  void start_guest(Completion done) override {
    set_runs(true, std::move(done));
  }

  NetGuest net{{}};
  bool runs = false;
  std::function<void()> on_turn;

 private:
  void take_frames() {
    for (;;) {
      const absl::StatusOr<std::optional<Frame>> got = net.poll(0);
      ASSERT_TRUE(got.ok()) << got.status();
      if (!got->has_value()) return;
      ASSERT_NO_FATAL_FAILURE(frames_.take(**got));
      ASSERT_EQ(net.offer(0, 1), absl::OkStatus());
    }
  }

  void set_runs(bool on, Completion done) {
    runs = on;
    net.loop().post(
        [done = std::move(done)]() mutable { done(absl::OkStatus()); });
  }

  Frames& frames_;
  Card card_{net};
  DriverPages pages_;
  MonotonicTime next_;
};

class KernelMigration : public ::testing::Test {
 protected:
  KernelMigration() {
    // What frames leave dirty is always little enough.
    options_.bandwidth = kFillerSize / 2;
    options_.downtime = std::chrono::seconds(2);
    options_.compare_ram = true;
  }

  bool turn_until(const std::function<bool()>& condition) {
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(40);
    while (!condition() && std::chrono::steady_clock::now() < end) {
      here_->turn();
      if (there_ != nullptr) there_->turn();
    }
    return condition();
  }

  // So many frames more.
  void frames_arrive(uint64_t count = 50) {
    const uint64_t until = frames_.received() + count;
    ASSERT_TRUE(turn_until(
        [&] { return frames_.received() >= until || HasFailure(); }));
    ASSERT_FALSE(HasFailure());
  }

  // From `here_` to `there_`: what the source says of it.
  absl::Status migrate() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    there_ = std::make_unique<MovingGuest>(frames_);
    MigrationDestination coming(there_->net.loop(), there_->net.context(),
                                *there_, {});
    MigrationSource leaving(here_->net.loop(), here_->net.context(), *here_,
                            options_);
    std::optional<absl::Status> came;
    std::optional<absl::Status> left;
    coming.start(UniqueFd(fds[1]),
                 [&](absl::Status s) { came = std::move(s); });
    leaving.start(UniqueFd(fds[0]),
                  [&](absl::Status s) { left = std::move(s); });
    EXPECT_TRUE(
        turn_until([&] { return came.has_value() && left.has_value(); }));
    progress_ = leaving.progress();
    EXPECT_EQ(came.value_or(absl::UnknownError("not over")).ok(),
              left.value_or(absl::UnknownError("not over")).ok());
    return left.value_or(absl::UnknownError("not over"));
  }

  // Bytes that the kernel's log told.
  uint64_t logged() const {
    for (const MigrationProgress::Provider& one : progress_.providers) {
      if (one.name == "vhost") return one.dirty;
    }
    return 0;
  }

  Frames frames_;
  MigrationSource::Options options_;
  std::unique_ptr<MovingGuest> here_ = std::make_unique<MovingGuest>(frames_);
  std::unique_ptr<MovingGuest> there_;
  MigrationProgress progress_;
};

TEST_F(KernelMigration, MovesWhatTheKernelWrote) {
  ASSERT_NO_FATAL_FAILURE(here_->run());
  for (int i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(frames_arrive());
    ASSERT_EQ(migrate(), absl::OkStatus());
    EXPECT_GE(logged(), 8 * NetGuest::kPage);
    EXPECT_FALSE(here_->runs);
    EXPECT_TRUE(there_->runs);
    here_ = std::move(there_);
    ASSERT_NO_FATAL_FAILURE(frames_arrive());
    const Frame out = make_frame(kFrameSize, 77);
    ASSERT_EQ(here_->net.send(0, out), absl::OkStatus());
    EXPECT_EQ(here_->net.tap(0).receive(), out);
  }
}

// Pages that somebody else took from the log are missing at the destination,
// and the comparison finds that.
TEST_F(KernelMigration, NeedsTheKernelsLog) {
  ASSERT_NO_FATAL_FAILURE(here_->run());
  ASSERT_NO_FATAL_FAILURE(frames_arrive());
  size_t taken = 0;
  here_->on_turn = [&] { taken += here_->net.harvest().size(); };
  const absl::Status moved = migrate();
  EXPECT_GT(taken, 0u);
  EXPECT_THAT(std::string(moved.message()), HasSubstr("a page is missing"));
  EXPECT_EQ(progress_.outcome, MigrationOutcome::kNotMoved);
  EXPECT_TRUE(here_->runs);
  EXPECT_FALSE(there_->runs);
  ASSERT_NO_FATAL_FAILURE(frames_arrive());
  here_->on_turn = nullptr;
  ASSERT_EQ(migrate(), absl::OkStatus());
  here_ = std::move(there_);
  ASSERT_NO_FATAL_FAILURE(frames_arrive());
}

}  // namespace
}  // namespace vhost::testing
