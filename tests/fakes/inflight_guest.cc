// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/inflight_guest.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

constexpr uint64_t kHeaders = 0x7000;
constexpr uint64_t kStatuses = 0xf000;
constexpr uint32_t kOut = 1;

}  // namespace

void InflightGuest::connect() {
  front_.set_up();
  if (!area_.valid()) {
    front_.send(Request::kGetInflightFd,
                wire::Inflight{.mmap_size = 0,
                               .mmap_offset = 0,
                               .num_queues = 1,
                               .queue_size = HandRing::kNum,
                               .padding = 0});
    std::optional<ModelFrame> frame = front_.reply();
    ASSERT_TRUE(frame.has_value());
    ASSERT_EQ(frame->fds.size(), 1u);
    area_ = std::move(frame->fds[0]);
    about_ = wire::read_prefix<wire::Inflight>(frame->payload)
                 .value_or(wire::Inflight{});
  }
  ASSERT_EQ(front_.ask(Request::kSetInflightFd, about_, {area_}), 0u);
  ring_.take_kick_back();  // Until the back-end is set up as a whole.
  ring_.start();
  ring_.kick();
}

void InflightGuest::put(uint16_t slot, uint32_t request) {
  struct {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  } header = {kOut, 0, request};
  const uint64_t where = kHeaders + slot * sizeof(header);
  const uint64_t data = HandRing::kData + slot * kSectorSize;
  std::memcpy(ring_.at(where), &header, sizeof(header));
  std::fill_n(ring_.at(data), kSectorSize, byte_of(request));
  *ring_.at(kStatuses + slot) = std::byte{0xff};
  const auto head = static_cast<uint16_t>(3 * slot);
  const auto next = [head](int i) { return static_cast<uint16_t>(head + i); };
  ring_.desc(head) = {ring_.gpa(where), sizeof(header), HandRing::kNext,
                      next(1)};
  ring_.desc(next(1)) = {ring_.gpa(data), kSectorSize, HandRing::kNext,
                         next(2)};
  ring_.desc(next(2)) = {ring_.gpa(kStatuses + slot), 1, HandRing::kWrite, 0};
  owner_[slot] = request;
  ring_.offer(head);
}

bool InflightGuest::go_on() {
  const auto* const elements =
      reinterpret_cast<const uint32_t*>(ring_.at(HandRing::kUsed + 4));
  for (; seen_idx_ != ring_.used_idx(); ++seen_idx_) {
    const uint32_t head = elements[2 * (seen_idx_ % HandRing::kNum)];
    const uint32_t slot = head / 3;
    const bool ours =
        head % 3 == 0 && slot < owner_.size() && owner_[slot].has_value();
    EXPECT_TRUE(ours) << "head " << head << " is not with the device";
    if (!ours) return true;
    EXPECT_EQ(*ring_.at(kStatuses + slot), std::byte{0});
    seen_.push_back(*owner_[slot]);
    owner_[slot].reset();
  }
  for (uint16_t slot = 0; slot < owner_.size() && made_ < requests_; ++slot) {
    if (!owner_[slot].has_value()) put(slot, made_++);
  }
  return seen_.size() == requests_;
}

}  // namespace vhost::testing
