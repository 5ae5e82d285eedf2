// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_REGRESSIONS_GUEST_DISK_H_
#define TESTS_REGRESSIONS_GUEST_DISK_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "backends/user/message_table.h"
#include "tests/badinput/footprint.h"
#include "tests/badinput/stage.h"
#include "tests/fakes/block_ring.h"

namespace vhost::regressions {

using badinput::Meddler;
using badinput::Mischief;
using badinput::Stage;
using user::Request;

// A disk (Stage), and a guest that reads from it by hand.
class GuestDisk {
 public:
  explicit GuestDisk(Stage::Options options = {})
      : stage(std::make_unique<Stage>(std::move(options))) {}
  ~GuestDisk() {
    stage.reset();
    EXPECT_EQ(badinput::Footprint::now(), before_) << "something is left";
  }
  GuestDisk(const GuestDisk&) = delete;
  GuestDisk& operator=(const GuestDisk&) = delete;

  testing::BlockRing ring(uint32_t vq = 0) const {
    const uint64_t data = 0x80000 + uint64_t{vq} * 0x4000;
    const VirtqueueConfig queue = stage->guest.queue(QueueIndex{vq});
    const auto at = [this](uint64_t gpa) {
      return stage->memory.translate(gpa, 1);
    };
    return testing::BlockRing({.desc = at(queue.desc_gpa),
                               .avail = at(queue.avail_gpa),
                               .used = at(queue.used_gpa),
                               .num = queue.num,
                               .data = at(data),
                               .data_gpa = data});
  }

  // One request of the running disk, from its kick to its end.
  void read_once(uint32_t vq = 0) {
    testing::BlockRing queue = ring(vq);
    const auto next = static_cast<uint16_t>(queue.used_index() + 1);
    queue.read(0);
    ASSERT_TRUE(stage->binding.kick(QueueIndex{vq}));
    stage->settle();
    EXPECT_EQ(queue.used_index(), next);
    EXPECT_EQ(queue.status(), 0);
  }

  // The back-end dies, and the VMM notices.
  void lose() {
    stage->meddler->hang_up();
    stage->settle();
    ASSERT_EQ(stage->dev->state(), DeviceState::kBroken);
    stage->meddler->arm(Mischief::kNone);
  }

  // The requests of this kind since the Meddler was armed.
  std::vector<Meddler::Request> requests(Request id) const {
    std::vector<Meddler::Request> out;
    for (const Meddler::Request& one : stage->meddler->requests()) {
      if (one.id == user::to_int(id)) out.push_back(one);
    }
    return out;
  }
  // Where the first of this kind is among them.
  size_t position(Request id) const {
    const auto& all = stage->meddler->requests();
    return static_cast<size_t>(std::find_if(all.begin(), all.end(),
                                            [id](const auto& one) {
                                              return one.id == user::to_int(id);
                                            }) -
                               all.begin());
  }
  static uint64_t value(const Meddler::Request& request) {
    uint64_t out = 0;
    std::memcpy(&out, request.payload.data(),
                std::min(sizeof(out), request.payload.size()));
    return out;
  }

 private:
  const badinput::Footprint before_ = badinput::Footprint::now();

 public:
  std::unique_ptr<Stage> stage;
};

}  // namespace vhost::regressions

#endif  // TESTS_REGRESSIONS_GUEST_DISK_H_
