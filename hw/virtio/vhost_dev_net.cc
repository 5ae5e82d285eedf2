// SPDX-License-Identifier: Apache-2.0
// What only network devices are told.
#include <utility>

#include "hw/virtio/vhost_dev_impl.h"

namespace vhost {

void VhostDev::Impl::set_mtu(uint16_t mtu, Completion done) {
  using enum DeviceState;
  begin({.name = "set mtu",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, mtu] { return net_task(SetMtu{.mtu = mtu}); }});
}

void VhostDev::Impl::send_rarp(std::array<uint8_t, 6> mac, Completion done) {
  using enum DeviceState;
  begin({.name = "send rarp",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, mac] { return net_task(SendRarp{.mac = mac}); }});
}

void VhostDev::Impl::set_guest_cid(uint64_t cid, Completion done) {
  using enum DeviceState;
  begin({.name = "set guest cid",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, cid] { return net_task(SetGuestCid{.cid = cid}); }});
}

Task VhostDev::Impl::net_task(Verb verb) {
  BatchResult done =
      co_await Submit(runner_, std::move(verb), after(options_.start_timeout));
  absl::Status status = judge(done);
  co_return status;
}

}  // namespace vhost
