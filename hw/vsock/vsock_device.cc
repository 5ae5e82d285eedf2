// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vsock_device.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vhost {

QueueMap VsockQueues::map() {
  std::vector<std::optional<BackendQueue>> queues = {
      BackendQueue{0}, BackendQueue{1}, std::nullopt};
  return QueueMap(std::move(queues));
}

struct VsockDevice::State {
  State(VhostDev& vhost_dev, Options&& chosen)
      : dev(vhost_dev),
        guest_cid(chosen.guest_cid),
        send_event(std::move(chosen.send_event)) {}

  // Sends the event that is kept, if it can be sent now.
  void send_kept() {
    if (!reset_pending || !send_event) return;
    if (dev.state() != DeviceState::kRunning) return;
    reset_pending = !send_event(vsock_transport_reset_event());
  }

  // The first half of a start, and the second unless a stop came between.
  static void tell_and_start(const std::shared_ptr<State>& state,
                             Completion done);

  VhostDev& dev;
  uint64_t guest_cid;
  uint64_t stops = 0;  // That were asked for.
  absl::AnyInvocable<bool(std::span<const std::byte>)> send_event;
  bool reset_pending = false;
};

void VsockDevice::State::tell_and_start(const std::shared_ptr<State>& state,
                                        Completion done) {
  const uint64_t cid = state->guest_cid;
  state->dev.set_guest_cid(
      cid, [state, cid, stops = state->stops,
            done = std::move(done)](absl::Status status) mutable {
        if (state->stops != stops) {
          return done(absl::CancelledError("start: stopped meanwhile"));
        }
        // A set_guest_cid() had ended, but nobody knew of it.
        if (state->guest_cid != cid) {
          return tell_and_start(state, std::move(done));
        }
        if (!status.ok()) return done(std::move(status));
        state->dev.start(std::move(done));
      });
}

namespace {

// Completes with `status`, as an operation that has nothing to do.
void finish(VhostDev& dev, const absl::Status& status, Completion done) {
  dev.set_queues_enabled(
      {}, true, [status, done = std::move(done)](const absl::Status&) mutable {
        done(status);
      });
}

}  // namespace

VsockDevice::VsockDevice(VhostDev& dev, Options options)
    : state_(std::make_shared<State>(dev, std::move(options))) {}

uint64_t VsockDevice::guest_cid() const { return state_->guest_cid; }

void VsockDevice::start(Completion done) {
  auto started = [state = state_,
                  done = std::move(done)](absl::Status status) mutable {
    if (status.ok()) state->send_kept();
    done(std::move(status));
  };
  if (state_->guest_cid == 0) return state_->dev.start(std::move(started));
  State::tell_and_start(state_, std::move(started));
}

void VsockDevice::stop(StopReason reason, Completion done) {
  ++state_->stops;
  state_->dev.stop(reason, std::move(done));
}

void VsockDevice::set_guest_cid(uint64_t cid, Completion done) {
  state_->dev.set_guest_cid(cid, [state = state_, cid, done = std::move(done)](
                                     absl::Status status) mutable {
    if (status.ok()) {
      state->reset_pending = state->reset_pending || state->guest_cid != cid;
      state->guest_cid = cid;
      state->send_kept();
    }
    done(std::move(status));
  });
}

void VsockDevice::get_config(uint32_t offset, std::span<std::byte> out,
                             Completion done) {
  State& state = *state_;
  if (state.guest_cid == 0) {
    return state.dev.get_config(offset, out, std::move(done));
  }
  absl::Status status;
  if (offset > kVsockConfigSize || out.size() > kVsockConfigSize - offset) {
    status = absl::InvalidArgumentError(absl::StrCat("get config: ", out.size(),
                                                     " bytes at ", offset,
                                                     " of ", kVsockConfigSize));
  } else {
    const auto config = encode_vsock_config(state.guest_cid);
    std::copy_n(config.begin() + offset, out.size(), out.begin());
  }
  finish(state.dev, status, std::move(done));
}

void VsockDevice::transport_reset() {
  state_->reset_pending = true;
  state_->send_kept();
}

void VsockDevice::event_queue_kicked() { state_->send_kept(); }

bool VsockDevice::event_pending() const { return state_->reset_pending; }

}  // namespace vhost
