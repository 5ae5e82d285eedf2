// SPDX-License-Identifier: Apache-2.0
// State of the back-end itself: out of one, into another.
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/state_mover.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// For requests that no amount of state can delay.
constexpr Duration kAskTimeout = std::chrono::seconds(10);

}  // namespace

void VhostDev::Impl::save_state(StateSink& sink, const StateLimits& limits,
                                Completion done) {
  begin(
      {.name = "save_state",
       .done = std::move(done),
       .states = {DeviceState::kReady},
       .make = [this, &sink, limits] { return save_state_task(&sink, limits); },
       .moves_state = true});
}

void VhostDev::Impl::load_state(StateSource& source, const StateLimits& limits,
                                Completion done) {
  begin({.name = "load_state",
         .done = std::move(done),
         .states = {DeviceState::kReady},
         .make = [this, &source,
                  limits] { return load_state_task(&source, limits); },
         .moves_state = true});
}

void VhostDev::Impl::abandon_state() {
  if (next_.has_value() && next_->moves_state) {
    complete(*std::exchange(next_, std::nullopt),
             absl::CancelledError("abandoned"));
    return;
  }
  if (!moving_state()) return;
  state_abandoned_ = true;
  look_at_move();
}

// A move that is to end, or whose back-end is gone, waits for nothing more.
void VhostDev::Impl::look_at_move() {
  if (!moving_state()) return;
  defer([](Impl& self) { self.end_move_if_due(); });
}

void VhostDev::Impl::end_move_if_due() {
  const absl::Status why = move_interrupted();
  if (!why.ok() && mover_ != nullptr) mover_->fail(why);
}

absl::Status VhostDev::Impl::move_interrupted() const {
  VHOST_RETURN_IF_ERROR(interrupted());
  if (state_abandoned_) return absl::CancelledError("abandoned");
  return absl::OkStatus();
}

// Hands the back-end its end of a channel; state_channel_ is ours then.  Once
// state_asked_ the back-end has begun, whatever the status is.
Task VhostDev::Impl::open_state_channel(StateDirection direction) {
  state_asked_ = false;
  const bool saving = direction == StateDirection::kSave;
  absl::StatusOr<StatePipe> pipe = make_state_pipe();
  if (!pipe.ok()) co_return pipe.status();
  UniqueFd ours = std::move(saving ? pipe->read : pipe->write);
  UniqueFd theirs = std::move(saving ? pipe->write : pipe->read);
  absl::Status status = set_nonblocking(ours);
  if (!status.ok()) co_return status;
  Verb ask = SetDeviceStateFd{.direction = direction, .fd = theirs};
  BatchResult asked =
      co_await Submit(runner_, std::move(ask), after(kAskTimeout));
  theirs.reset();
  status = judge(asked);
  status.Update(move_interrupted());
  state_asked_ = asked.status.ok();
  if (!status.ok()) co_return status;
  if (!asked.fd.valid()) {
    state_channel_ = StateChannel(std::move(ours));
    co_return status;
  }
  ours.reset();
  absl::StatusOr<StateChannel> given = StateChannel::relay(std::move(asked.fd));
  if (given.ok()) state_channel_ = *std::move(given);
  co_return given.status();
}

Task VhostDev::Impl::check_state(Duration timeout) {
  Verb check = CheckDeviceState();
  BatchResult checked =
      co_await Submit(runner_, std::move(check), after(timeout));
  absl::Status status = judge(checked);
  co_return status;
}

Task VhostDev::Impl::save_state_task(StateSink* sink, StateLimits limits) {
  state_abandoned_ = false;
  if (!traits().has_device_state) {
    co_return absl::UnimplementedError("back-end has no DEVICE_STATE");
  }
  Task opening = open_state_channel(StateDirection::kSave);
  absl::Status status = co_await opening;
  if (!state_asked_ || state() == DeviceState::kBroken) co_return status;
  auto owned = std::make_unique<StateSaver>(
      loop_, limits, std::exchange(state_channel_, StateChannel()), *sink);
  StateSaver& saver = *owned;
  mover_ = std::move(owned);
  if (status.ok()) status = co_await Moved(runner_, saver);
  saver.close_channel();
  if (state() == DeviceState::kBroken) {
    status.Update(interrupted());
    co_return status;
  }
  // Also after a failure: its answer says that the back-end is done with it.
  Task checking = check_state(limits.check_timeout);
  const absl::Status vouched = co_await checking;
  status.Update(vouched);
  status.Update(move_interrupted());
  if (!status.ok()) co_return status;
  saver.all_is_well();
  status = co_await Moved(runner_, saver);
  co_return status;
}

Task VhostDev::Impl::load_state_task(StateSource* source, StateLimits limits) {
  state_abandoned_ = false;
  if (!traits().has_device_state) {
    co_return absl::UnimplementedError("back-end has no DEVICE_STATE");
  }
  if (traits().has_reset) {
    Verb reset = ResetDevice();
    BatchResult done =
        co_await Submit(runner_, std::move(reset), after(kAskTimeout));
    absl::Status clean = judge(done);
    if (done.status.ok()) iotlb_told_ = false;
    clean.Update(move_interrupted());
    if (!clean.ok()) co_return clean;
  }
  Task opening = open_state_channel(StateDirection::kLoad);
  absl::Status status = co_await opening;
  if (!state_asked_ || state() == DeviceState::kBroken) co_return status;
  auto owned = std::make_unique<StateLoader>(
      loop_, limits, std::exchange(state_channel_, StateChannel()), *source);
  StateLoader& loader = *owned;
  mover_ = std::move(owned);
  if (status.ok()) status = co_await Moved(runner_, loader);
  status.Update(move_interrupted());
  const bool has_opinion = loader.reader_gone();
  if (!status.ok() && !has_opinion) {
    // ORDER: before the pipe is closed, whose end would say "complete".
    become_broken(status);
    co_return status;
  }
  loader.close_channel();
  Task checking = check_state(limits.check_timeout);
  const absl::Status vouched = co_await checking;
  if (vouched.ok() && has_opinion) {
    status = absl::DataLossError(
        absl::StrCat(status.message(), " and vouches for the state"));
    become_broken(status);
  }
  if (!vouched.ok()) status = vouched;
  co_return status;
}

// What had to wait until the back-end may be told something.
void VhostDev::Impl::move_ended() {
  mover_.reset();
  state_channel_ = StateChannel();
  std::vector<HeldInvalidation> held = std::exchange(held_invalidations_, {});
  for (HeldInvalidation& one : held) {
    forget_translation(one.iova, one.size, std::move(one.operation));
  }
}

}  // namespace vhost
