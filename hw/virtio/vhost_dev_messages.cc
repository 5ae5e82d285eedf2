// SPDX-License-Identifier: Apache-2.0
// What only one kind of device is told, or nobody as a part of a sequence.
#include <utility>

#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {
void VhostDev::Impl::set_mtu(uint16_t mtu, Completion done) {
  using enum DeviceState;
  if (schedule_.active() && !services_.answering()) {
    told_mtu_ = mtu;
    note_for_later("set mtu", absl::OkStatus(), std::move(done));
    return;
  }
  begin({.name = "set mtu",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, mtu] { return set_mtu_task(mtu); }});
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
      .make = [this, cid] { return set_guest_cid_task(cid); }};
  absl::Status possible = check_guest_cid(cid);
  if (!possible.ok()) {
    operation.collected = running_;
    complete(std::move(operation), std::move(possible));
    return;
  }
  if (schedule_.active() && !services_.answering()) {
    told_cid_ = cid;
    note_for_later(operation.name, absl::OkStatus(), std::move(operation.done));
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

Task VhostDev::Impl::set_mtu_task(uint16_t mtu) {
  Verb verb = SetMtu{.mtu = mtu};
  Task message = message_task(std::move(verb));
  const absl::Status status = co_await message;
  if (status.ok()) told_mtu_ = mtu;
  co_return status;
}

Task VhostDev::Impl::set_guest_cid_task(uint64_t cid) {
  Verb verb = SetGuestCid{.cid = cid};
  Task message = message_task(std::move(verb));
  const absl::Status status = co_await message;
  if (status.ok()) told_cid_ = cid;
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
    told_cid_.reset();
    told_mtu_.reset();
    told_config_.clear();
    let_go_of_logs();
  }
  co_return status;
}

}  // namespace vhost
