// SPDX-License-Identifier: Apache-2.0
// D8 and D9: the guest goes on here; and what becomes of one that does not.
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/destination.h"
#include "vhostdev/status.h"

namespace vhost {

absl::Status MigrationDestination::Impl::take_commit() {
  committed_ = true;
  limit_.reset();
  channel_->expect_bytes(false);
  // A file is whole when its end was read, too.
  if (from_ == From::kHost) start_devices();
  return absl::OkStatus();
}

void MigrationDestination::Impl::start_devices() {
  if (board_.phase() == Phase::kStarting) return;
  board_.enter(Phase::kStarting);
  error_ = absl::OkStatus();
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    devices_[i].tried_again = false;
    if (devices_[i].to_start) start_device(i);
  }
  --outstanding_;
  start_guest();
}

// A back-end that was lost since it was prepared is connected again, unless it
// had a state.
void MigrationDestination::Impl::start_device(size_t index) {
  Device& entry = devices_[index];
  VhostDev& dev = entry.device->dev();
  if (dev.state() != DeviceState::kBroken || is_reconnecting(dev)) {
    return entry.device->start(after(&Impl::device_started, index));
  }
  if (entry.state == nullptr || entry.discards) {
    return dev.init(after(&Impl::device_connected, index));
  }
  ++outstanding_;
  device_started(index, absl::UnavailableError(
                            "its back-end is lost, and the state it had"));
}

void MigrationDestination::Impl::device_connected(size_t index,
                                                  absl::Status status) {
  --outstanding_;
  Device& entry = devices_[index];
  if (status.ok()) status = place(entry);
  if (status.ok()) {
    return entry.device->start(after(&Impl::device_started, index));
  }
  ++outstanding_;
  device_started(index, std::move(status));
}

void MigrationDestination::Impl::device_started(size_t index,
                                                absl::Status status) {
  --outstanding_;
  Device& entry = devices_[index];
  if (!status.ok() && entry.device->dev().state() == DeviceState::kBroken &&
      !std::exchange(entry.tried_again, true)) {
    // It was lost before anybody had noticed.
    return start_device(index);
  }
  entry.to_start = !status.ok();
  error_.Update(annotate(status, devices_[index].device->name()));
  start_guest();
}

void MigrationDestination::Impl::start_guest() {
  if (outstanding_ != 0) return;
  if (!error_.ok()) return stuck(error_);
  vmm_.start_guest(after(&Impl::guest_started));
}

// The guest is this side's all the same: take_over() tries again.
void MigrationDestination::Impl::stuck(const absl::Status& why) {
  const absl::Status status = annotate(why, to_string(Phase::kStarting));
  if (channel_ != nullptr) channel_->goodbye(status);
  finish(status, Outcome::kStuck);
}

void MigrationDestination::Impl::guest_started(absl::Status status) {
  --outstanding_;
  if (!status.ok()) return stuck(status);
  board_.guest_up();
  if (channel_ != nullptr) {
    // The guest runs, whether or not the source hears of it.
    if (answer(RecordType::kResumed).ok() && from_ == From::kHost) {
      channel_->writer().end().IgnoreError();
    }
    channel_->finish();
  }
  for (Device& entry : devices_) {
    if (entry.config_differs) entry.device->config_differs();
    entry.device->announce();
  }
  finish(absl::OkStatus(), Outcome::kMoved);
}

void MigrationDestination::Impl::take_over(Completion done) {
  const bool may = outcome_ == Outcome::kUnknown || outcome_ == Outcome::kStuck;
  if (busy_ || !may) {
    return post(std::move(done),
                absl::FailedPreconditionError(
                    "take over: there is no guest to be taken over"));
  }
  busy_ = true;
  done_ = std::move(done);
  channel_.reset();
  committed_ = true;
  start_devices();
}

// ---------------------------------------------------------------------------
// Failures
// ---------------------------------------------------------------------------

absl::Status MigrationDestination::Impl::cancel() {
  if (!busy_ || board_.phase() == Phase::kRollingBack) {
    return absl::FailedPreconditionError("cancel: nothing is under way");
  }
  if (committed_ || (prepared_ && from_ == From::kHost)) {
    return absl::FailedPreconditionError(
        "cancel: the source was told that all is prepared: it decides");
  }
  fail(absl::CancelledError("cancelled"));
  return absl::OkStatus();
}

void MigrationDestination::Impl::fail(const absl::Status& why) {
  const Phase phase = board_.phase();
  if (!busy_ || phase == Phase::kRollingBack) return;
  // The guest is this side's: the channel does not matter any more.
  if (phase == Phase::kStarting) return;
  limit_.reset();
  stuck_.reset();
  job_ = nullptr;
  error_ = annotate(why, to_string(phase));
  if (prepared_ && from_ == From::kHost && !source_gave_up_) {
    // ORDER: a commit may be on its way; whoever promised to be prepared does
    // not say no.
    channel_->drop();
    return finish(error_, Outcome::kUnknown);
  }
  board_.enter(Phase::kRollingBack);
  if (channel_ != nullptr) channel_->goodbye(error_);
  close_sources(error_);
  for (Device& entry : devices_) {
    if (entry.connecting) entry.device->dev().cancel();
  }
  give_up_if_possible();
}

void MigrationDestination::Impl::give_up_if_possible() {
  if (outstanding_ == 0) finish(error_, Outcome::kNotMoved);
}

void MigrationDestination::Impl::finish(absl::Status status, Outcome outcome) {
  limit_.reset();
  stuck_.reset();
  busy_ = false;
  outcome_ = outcome;
  board_.enter(Phase::kOver);
  board_.update([&](MigrationProgress& p) {
    p.outcome = outcome;
    p.status = status;
  });
  post(std::exchange(done_, nullptr), std::move(status));
}

}  // namespace vhost
