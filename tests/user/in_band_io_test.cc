// SPDX-License-Identifier: Apache-2.0
//
// Block requests whose kicks, calls and errors are all messages, with the model
// back-end at the other end of a socket.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/socket_io.h"
#include "tests/fakes/block_ring.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {
namespace {

using testing::BlockRing;
using testing::Guest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr BackendQueue kQ0{0};
constexpr BackendQueue kQ1{1};

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

// Requests on ring `vq` of a Guest.
BlockRing ring_of(const Guest& guest, uint32_t vq) {
  constexpr uint64_t kData = 0x80000;
  const uint64_t offset = kData + vq * 0x4000;
  const VringAddresses addr = guest.setup(vq).addr;
  const auto at = [](uint64_t user) {
    return reinterpret_cast<std::byte*>(user);
  };
  return BlockRing({.desc = at(addr.desc.user),
                    .avail = at(addr.avail.user),
                    .used = at(addr.used.user),
                    .num = Guest::kNum,
                    .data = at(guest.table()[0].user + offset),
                    .data_gpa = Guest::kGpa + offset});
}

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
  void complete(BlockRing& ring, BackendQueue vq) {
    const int before = sink_.calls[to_int(vq)];
    run(KickQueues{{vq}});
    EXPECT_TRUE(until([&] { return sink_.calls[to_int(vq)] != before; }));
    EXPECT_EQ(ring.status(), 0);
  }

  VringBase base_{0};
  Guest guest_{2};
  std::unique_ptr<testing::ModelBlk> disk_;
  std::unique_ptr<testing::ModelBackend> model_;
  Sink sink_;
  std::unique_ptr<VhostOps> ops_;
};

TEST_F(InBandDisk, ReadsWhatItWrote) {
  BlockRing first = ring_of(guest_, 0);
  BlockRing second = ring_of(guest_, 1);
  std::fill_n(first.data(), BlockRing::kSectorSize, std::byte{0x5a});
  first.write(7);
  complete(first, kQ0);
  second.read(7);
  complete(second, kQ1);

  EXPECT_TRUE(std::equal(first.data(), first.data() + BlockRing::kSectorSize,
                         second.data()));
  EXPECT_THAT(model_->trouble(), IsEmpty());
}

TEST_F(InBandDisk, RunsOnlyOnceItIsKicked) {
  BlockRing ring = ring_of(guest_, 0);
  ring.read(0);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(model_->step(std::chrono::nanoseconds(0)).ok());
  }
  EXPECT_FALSE(model_->ring(0).started);
  EXPECT_EQ(ring.used_index(), 0);
  complete(ring, kQ0);
  EXPECT_TRUE(model_->ring(0).started);
  EXPECT_FALSE(model_->ring(1).started);
}

TEST_F(InBandDisk, StopsDrainedAndStartsAgain) {
  BlockRing ring = ring_of(guest_, 0);
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
  EXPECT_EQ(ring.used_index(), 4);
}

TEST_F(InBandDisk, ABrokenRingIsToldInBand) {
  BlockRing ring = ring_of(guest_, 0);
  ring.read_into_nowhere();
  run(KickQueues{{kQ0}});
  EXPECT_TRUE(until([&] { return sink_.errors[0] != 0; }));
  EXPECT_TRUE(model_->ring(0).broken);
  EXPECT_EQ(sink_.calls[0], 0);
  // The other queue goes on.
  BlockRing other = ring_of(guest_, 1);
  other.read(0);
  complete(other, kQ1);
}

// The back-end waits for the answer, so there must be one, and it must be true.
TEST_F(InBandDisk, ACallThatNobodyTakesIsRefusedToTheBackEnd) {
  sink_.deaf = kQ0;
  BlockRing ring = ring_of(guest_, 0);
  ring.read(0);
  run(KickQueues{{kQ0}});
  EXPECT_TRUE(until([&] { return !model_->trouble().empty(); }));
  EXPECT_THAT(model_->trouble(),
              HasSubstr("the front-end refused BACKEND_VRING_CALL"));
  EXPECT_EQ(sink_.calls[0], 0);
}

}  // namespace
}  // namespace vhost::user
