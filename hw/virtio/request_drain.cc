// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/request_drain.h"

#include <chrono>
#include <utility>

#include "vhostdev/status.h"

namespace vhost {
namespace {

// How often rings are looked at.
constexpr Duration kPoll = std::chrono::milliseconds(1);

}  // namespace

RequestDrain::RequestDrain(EventLoop& loop, std::vector<VhostDev*> devices)
    : loop_(loop), devices_(std::move(devices)) {}

RequestDrain::~RequestDrain() = default;

absl::Status RequestDrain::look() const {
  for (const VhostDev* device : devices_) {
    VHOST_RETURN_IF_ERROR(device->check_drained());
  }
  return absl::OkStatus();
}

bool RequestDrain::over() const { return look().ok(); }

void RequestDrain::wait(Duration limit, Completion done) {
  done_ = std::move(done);
  end_ = loop_.now() + limit;
  absl::Status kicked;
  for (VhostDev* device : devices_) {
    if (!device->check_drained().ok()) kicked.Update(device->kick());
  }
  timer_ = loop_.timer(loop_.now(), [this, kicked = std::move(kicked)] {
    kicked.ok() ? look_again() : std::exchange(done_, nullptr)(kicked);
  });
}

void RequestDrain::look_again() {
  const absl::Status left = look();
  if (left.ok() || loop_.now() >= end_) {
    return std::exchange(done_, nullptr)(left);
  }
  timer_ = loop_.timer(loop_.now() + kPoll, [this] { look_again(); });
}

}  // namespace vhost
