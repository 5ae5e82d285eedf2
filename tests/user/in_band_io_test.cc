// SPDX-License-Identifier: Apache-2.0
//
// Block requests whose kicks, calls and errors are all messages, with the model
// back-end at the other end of a socket.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/socket_io.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {
namespace {

using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr BackendQueue kQ0{0};
constexpr BackendQueue kQ1{1};
constexpr uint32_t kSectorSize = 512;

// Counts calls and errors; refuses those of `deaf`.
class Sink final : public BackendSink {
 public:
  std::array<int, 2> calls = {};
  std::array<int, 2> errors = {};
  std::optional<BackendQueue> deaf;

  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue vq) override {
    return count(vq, calls);
  }
  absl::Status on_vring_error(BackendQueue vq) override {
    return count(vq, errors);
  }
  void on_lost(const absl::Status& why) override { ADD_FAILURE() << why; }
  BackendServices& services() override { return services_; }

 private:
  absl::Status count(BackendQueue vq, std::array<int, 2>& in) const {
    if (vq == deaf) return absl::InvalidArgumentError("not in band");
    ++in.at(to_int(vq));
    return absl::OkStatus();
  }

  BackendServices services_;
};

// One request at a time on the rings of a Guest, by hand.
class Ring {
 public:
  Ring(const Guest& guest, uint32_t vq)
      : begin_(guest.setup(vq).addr), gpa_(Guest::kGpa + kData + vq * 0x4000) {
    data_ = reinterpret_cast<std::byte*>(guest.table()[0].user + kData +
                                         vq * 0x4000);
  }

  // Puts a read of sector `sector` and makes it available.
  void read(uint64_t sector) { put(0, sector, kVringDescWrite, gpa_ + 0x1000); }
  void write(uint64_t sector) { put(1, sector, 0, gpa_ + 0x1000); }
  // A request whose data lie where there is no memory.
  void read_into_nowhere() { put(0, 0, kVringDescWrite, 0x10); }

  uint16_t used() const { return half(begin_.used.user + 2); }
  std::byte status() const { return data_[0x2000]; }
  std::byte* data() { return data_ + 0x1000; }

 private:
  static constexpr uint64_t kData = 0x80000;

  static uint16_t& half(uint64_t user) {
    return *reinterpret_cast<uint16_t*>(user);
  }
  void put(uint32_t type, uint64_t sector, uint16_t direction, uint64_t to) {
    struct {
      uint32_t type;
      uint32_t reserved;
      uint64_t sector;
    } const header = {type, 0, sector};
    std::memcpy(data_, &header, sizeof(header));
    data_[0x2000] = std::byte{0xff};
    auto* const desc = reinterpret_cast<VringDesc*>(begin_.desc.user);
    desc[0] = {gpa_, sizeof(header), kVringDescNext, 1};
    desc[1] = {to, kSectorSize,
               static_cast<uint16_t>(kVringDescNext | direction), 2};
    desc[2] = {gpa_ + 0x2000, 1, kVringDescWrite, 0};
    const uint64_t avail = begin_.avail.user;
    uint16_t& index = half(avail + 2);
    half(avail + 4 + 2 * (index % Guest::kNum)) = 0;
    ++index;  // One thread: what is written before is seen before.
  }

  VringAddresses begin_;
  uint64_t gpa_;
  std::byte* data_;
};

class InBandDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = testing::ModelBlk::on_memory(1 << 20);
    ASSERT_TRUE(made.ok());
    disk_ = *std::move(made);
    testing::ModelOptions options;
    options.queues = 2;
    options.inband_notifications = true;
    model_ = std::make_unique<testing::ModelBackend>(disk_.get(), options);
    auto pair = make_pair();
    ASSERT_TRUE(pair.ok());
    ASSERT_TRUE(model_->connect(std::move(pair->second)).ok());
    ops_ = make_vhost_user_ops(
        UseSocket{std::make_shared<UniqueFd>(std::move(pair->first))},
        {.extra_protocol_features = bit_mask(kProtocolInbandNotifications)});
    ops_->attach(nullptr, &sink_);
    run(Open{});
    ASSERT_TRUE(ops_->traits().in_band_notifications);
    start(true);
  }

  // One thread: both sides in turns, at most five seconds of them.
  bool until(const std::function<bool()>& done) {
    const auto limit =
        std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while (!done()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      EXPECT_TRUE(model_->step(std::chrono::microseconds(100)).ok());
      ops_->pump(std::chrono::steady_clock::now());
    }
    return true;
  }
  BatchResult run(Verb verb) {
    const std::string name(verb_name(verb));
    std::optional<BatchResult> out;
    const Pending pending =
        ops_->submit(std::move(verb),
                     std::chrono::steady_clock::now() + std::chrono::seconds(5),
                     [&out](BatchResult result) { out = std::move(result); });
    EXPECT_TRUE(until([&] { return out.has_value(); })) << name;
    if (!out.has_value()) return {};
    EXPECT_TRUE(out->status.ok()) << out->status;
    return *std::move(out);
  }

  void start(bool with_memory) {
    run(SetFeatures{{kFeatureVersion1}});
    Configure configure = guest_.configure(with_memory, base_);
    Go go;
    for (VringSetup& vring : configure.queues) {
      vring.call = NotifyRef::in_band();
      vring.err = NotifyRef::in_band();
      go.queues.push_back({.index = vring.index, .kick = NotifyRef::in_band()});
    }
    run(configure);
    run(go);
    run(DriverOk());
  }
  std::vector<std::optional<VringBase>> stop() {
    run(Quiesce{{kQ0, kQ1}});
    auto bases = run(Harvest{{kQ0, kQ1}}).bases;
    run(ResetStatus());
    return bases;
  }

  // Kicks, and waits for the call.
  void complete(Ring& ring, BackendQueue vq) {
    const int before = sink_.calls[to_int(vq)];
    run(KickQueues{{vq}});
    EXPECT_TRUE(until([&] { return sink_.calls[to_int(vq)] != before; }));
    EXPECT_EQ(ring.status(), std::byte{0});
  }

  VringBase base_{0};
  Guest guest_{2};
  std::unique_ptr<testing::ModelBlk> disk_;
  std::unique_ptr<testing::ModelBackend> model_;
  Sink sink_;
  std::unique_ptr<VhostOps> ops_;
};

TEST_F(InBandDisk, ReadsWhatItWrote) {
  Ring first(guest_, 0);
  Ring second(guest_, 1);
  std::fill_n(first.data(), kSectorSize, std::byte{0x5a});
  first.write(7);
  complete(first, kQ0);
  second.read(7);
  complete(second, kQ1);

  EXPECT_TRUE(
      std::equal(first.data(), first.data() + kSectorSize, second.data()));
  EXPECT_THAT(model_->trouble(), IsEmpty());
}

TEST_F(InBandDisk, RunsOnlyOnceItIsKicked) {
  Ring ring(guest_, 0);
  ring.read(0);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(model_->step(std::chrono::nanoseconds(0)).ok());
  }
  EXPECT_FALSE(model_->ring(0).started);
  EXPECT_EQ(ring.used(), 0);
  complete(ring, kQ0);
  EXPECT_TRUE(model_->ring(0).started);
  EXPECT_FALSE(model_->ring(1).started);
}

TEST_F(InBandDisk, StopsDrainedAndStartsAgain) {
  Ring ring(guest_, 0);
  for (uint64_t sector = 0; sector < 3; ++sector) {
    ring.read(sector);
    complete(ring, kQ0);
  }
  const auto bases = stop();
  ASSERT_EQ(bases.size(), 2u);
  EXPECT_EQ(bases[0], VringBase{3});
  EXPECT_EQ(bases[1], VringBase{0});
  EXPECT_FALSE(model_->ring(0).started);

  // The second ring stands elsewhere: only the first is used.
  base_ = VringBase{3};
  start(false);
  ring.read(5);
  complete(ring, kQ0);
  EXPECT_EQ(ring.used(), 4);
}

TEST_F(InBandDisk, ABrokenRingIsToldInBand) {
  Ring ring(guest_, 0);
  ring.read_into_nowhere();
  run(KickQueues{{kQ0}});
  EXPECT_TRUE(until([&] { return sink_.errors[0] != 0; }));
  EXPECT_TRUE(model_->ring(0).broken);
  EXPECT_EQ(sink_.calls[0], 0);
  // The other queue goes on.
  Ring other(guest_, 1);
  other.read(0);
  complete(other, kQ1);
}

// The back-end waits for the answer, so there must be one, and it must be true.
TEST_F(InBandDisk, ACallThatNobodyTakesIsRefusedToTheBackEnd) {
  sink_.deaf = kQ0;
  Ring ring(guest_, 0);
  ring.read(0);
  run(KickQueues{{kQ0}});
  EXPECT_TRUE(until([&] { return !model_->trouble().empty(); }));
  EXPECT_THAT(model_->trouble(),
              HasSubstr("the front-end refused BACKEND_VRING_CALL"));
  EXPECT_EQ(sink_.calls[0], 0);
}

}  // namespace
}  // namespace vhost::user
