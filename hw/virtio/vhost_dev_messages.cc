// SPDX-License-Identifier: Apache-2.0
// What only one kind of device is told, or nobody as a part of a sequence.
#include <utility>

#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {
void VhostDev::Impl::set_mtu(uint16_t mtu, Completion done) {
  using enum DeviceState;
  begin({.name = "set mtu",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, mtu] { return message_task(SetMtu{.mtu = mtu}); }});
}

void VhostDev::Impl::send_rarp(std::array<uint8_t, 6> mac, Completion done) {
  using enum DeviceState;
  begin({.name = "send rarp",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, mac] { return message_task(SendRarp{.mac = mac}); }});
}

void VhostDev::Impl::set_guest_cid(uint64_t cid, Completion done) {
  Operation operation = {
      .name = "set guest cid",
      .done = std::move(done),
      .states = {DeviceState::kReady},
      .make = [this, cid] { return message_task(SetGuestCid{.cid = cid}); }};
  absl::Status possible = check_guest_cid(cid);
  if (!possible.ok()) {
    operation.collected = running_;
    complete(std::move(operation), std::move(possible));
    return;
  }
  begin(std::move(operation));
}

void VhostDev::Impl::reset_owner(Completion done) {
  begin({.name = "reset owner",
         .done = std::move(done),
         .states = {DeviceState::kReady},
         .make = [this] { return reset_owner_task(); }});
}

Task VhostDev::Impl::message_task(Verb verb) {
  BatchResult done =
      co_await Submit(runner_, std::move(verb), after(options_.start_timeout));
  absl::Status status = judge(done);
  co_return status;
}

Task VhostDev::Impl::reset_owner_task() {
  Verb verb = ResetOwner();
  Task message = message_task(std::move(verb));
  const absl::Status status = co_await message;
  if (status.ok()) {
    // Nothing is left of what it was told.
    applied_.clear();
    iotlb_told_ = false;
    let_go_of_logs();
  }
  co_return status;
}

}  // namespace vhost
