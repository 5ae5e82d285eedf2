// SPDX-License-Identifier: Apache-2.0
//
// VD-9 and VD-19 over long random runs: what is free and what is in flight add
// up to the ring, every request completes once with what the device wrote, also
// where the driver's side moves now and then.
#include <array>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/driver/ring_device.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost {
namespace {

using ::testing::IsEmpty;

struct Setup {
  uint32_t num;
  bool event_index;
  uint32_t indirect_entries;
  uint16_t first_index;
};

// A queue, its device and what should be true of them.
class Model {
 public:
  Model(const Setup& setup, uint32_t seed)
      : setup_(setup),
        memory_(setup.num, setup.indirect_entries),
        device_(memory_.parts(), setup.event_index, setup.first_index),
        random_(seed) {
    queue_ = SplitVirtqueue::create(options()).value();
  }

  void step() {
    if (pick(64) == 0) move();
    switch (pick(7)) {
      case 0:
      case 1:
        return submit(pick(8) == 0);
      case 2:
      case 3:
        return serve();
      case 4:
        return poll();
      case 5:
        static_cast<void>(queue_->publish());
        return;
      default:
        return complete();
    }
  }

  void check() {
    uint32_t descriptors = 0;
    for (const auto& [cookie, used] : in_flight_) descriptors += used;
    ASSERT_EQ(queue_->free_count() + descriptors, setup_.num);
    ASSERT_EQ(queue_->in_flight(), in_flight_.size());
    ASSERT_TRUE(queue_->status().ok());
    ASSERT_THAT(device_.complaints, IsEmpty());
  }

  void drain() {
    static_cast<void>(queue_->publish());
    while (device_.has_available()) serve();
    while (!served_.empty()) complete();
    while (queue_->in_flight() != 0) poll();
  }

  uint64_t completed() const { return completed_; }

 private:
  uint32_t pick(uint32_t below) {
    return std::uniform_int_distribution<uint32_t>(0, below - 1)(random_);
  }

  SplitVirtqueue::Options options() const {
    SplitVirtqueue::Options out = memory_.options();
    out.event_index = setup_.event_index;
    out.first_index = setup_.first_index;
    return out;
  }

  // By its bytes.
  void move() {
    DriverState::Queue queue;
    queue.ring = queue_->save().value();
    DriverState state;
    state.queues.push_back(queue);
    const auto there = decode_driver_state(encode(state));
    ASSERT_TRUE(there.ok()) << there.status();
    auto moved = SplitVirtqueue::restore(options(), there->queues[0].ring);
    ASSERT_TRUE(moved.ok()) << moved.status();
    queue_ = *std::move(moved);
  }

  void submit(bool cancel) {
    const uint32_t readable = pick(4);
    const uint32_t writable = pick(4) + (readable == 0 ? 1 : 0);
    const uint32_t total = readable + writable;
    const bool indirect = total > 1 && total <= setup_.indirect_entries;
    const uint32_t needed = indirect ? 1 : total;
    auto request = queue_->begin(total, next_cookie_);
    if (total > setup_.num) {
      ASSERT_TRUE(absl::IsInvalidArgument(request.status()));
      return;
    }
    ASSERT_EQ(request.ok(), needed <= queue_->free_count());
    if (!request.ok()) return;
    for (uint32_t i = 0; i < readable; ++i) {
      ASSERT_TRUE(request.add_readable(next_cookie_, 1).ok());
    }
    for (uint32_t i = 0; i < writable; ++i) {
      ASSERT_TRUE(request.add_writable(next_cookie_, 1 + i).ok());
    }
    if (cancel) {
      ASSERT_TRUE(request.cancel().ok());
      return;
    }
    ASSERT_TRUE(request.submit().ok());
    in_flight_.emplace(next_cookie_++, needed);
  }

  // The device takes a request.
  void serve() {
    const auto chain = device_.pop();
    if (!chain.has_value()) return;
    const auto& buffers =
        chain->readable.empty() ? chain->writable : chain->readable;
    served_.emplace_back(buffers[0].addr, *chain);
  }

  // And completes any of those it has.
  void complete() {
    if (served_.empty()) return;
    const size_t i = pick(static_cast<uint32_t>(served_.size()));
    const auto [cookie, chain] = served_[i];
    served_.erase(served_.begin() + static_cast<std::ptrdiff_t>(i));
    const uint32_t written = pick(chain.writable_bytes + 1);
    written_.emplace(cookie, written);
    device_.complete(chain.head, written);
  }

  void poll() {
    std::array<RingCompletion, 5> done;
    const size_t count =
        queue_->poll(std::span(done).first(1 + pick(5))).value();
    for (size_t i = 0; i < count; ++i) {
      const auto written = written_.extract(done[i].cookie);
      ASSERT_FALSE(written.empty()) << "cookie " << done[i].cookie;
      ASSERT_EQ(written.mapped(), done[i].written);
      ASSERT_EQ(in_flight_.erase(done[i].cookie), 1u);
      ++completed_;
    }
  }

  const Setup setup_;
  RingMemory memory_;
  RingDevice device_;
  std::unique_ptr<SplitVirtqueue> queue_;
  std::mt19937 random_;
  uint64_t next_cookie_ = 1;
  uint64_t completed_ = 0;
  std::map<uint64_t, uint32_t> in_flight_;  // Cookie to descriptors.
  std::map<uint64_t, uint32_t> written_;    // Completed, not yet polled.
  std::vector<std::pair<uint64_t, RingDevice::Chain>> served_;
};

class SplitVirtqueueProperty : public ::testing::TestWithParam<Setup> {};

TEST_P(SplitVirtqueueProperty, FreeAndInFlightAddUpAfterEverySequence) {
  Model model(GetParam(), 20240601);
  for (int i = 0; i < 300'000; ++i) {
    model.step();
    model.check();
    if (HasFatalFailure()) return;
  }
  model.drain();
  model.check();
  // Enough for the indices to pass 65535 from where they started.
  EXPECT_GT(model.completed(), 20'000u);
}

INSTANTIATE_TEST_SUITE_P(
    AMillionSteps, SplitVirtqueueProperty,
    ::testing::Values(Setup{8, false, 0, 60000}, Setup{16, true, 0, 65530},
                      Setup{8, true, 8, 65000}, Setup{64, false, 4, 1}),
    [](const ::testing::TestParamInfo<Setup>& setup) {
      return absl::StrCat("Depth", setup.param.num,
                          setup.param.event_index ? "EventIndex" : "Flags",
                          "Indirect", setup.param.indirect_entries);
    });

}  // namespace
}  // namespace vhost
