// SPDX-License-Identifier: Apache-2.0
// S8, and the way back from everywhere before it.
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/source.h"
#include "vhostdev/status.h"

namespace vhost {

// ---------------------------------------------------------------------------
// The promise
// ---------------------------------------------------------------------------

absl::Status MigrationSource::Impl::commit() {
  StreamWriter& writer = channel_->writer();
  board_.enter(Phase::kCommitted);
  VHOST_RETURN_IF_ERROR(writer.record(RecordType::kCommit, 0, {}));
  // Until the last byte of it is out, the destination cannot act on it.
  commit_end_ = writer.bytes();
  VHOST_RETURN_IF_ERROR(writer.end());
  if (to_ == To::kFile) {
    limit_.reset();  // A file is as slow as it is; silence is watched.
  } else {
    limit(options_.timeouts.resume, "word that the guest runs there");
  }
  channel_->wake();
  return absl::OkStatus();
}

bool MigrationSource::Impl::commit_is_out() const {
  return to_ == To::kHost && commit_end_.has_value() &&
         channel_->bytes_sent() >= *commit_end_;
}

void MigrationSource::Impl::moved() {
  if (to_ == To::kHost) {
    // A back-end that both hosts can reach is the other one's now.
    for (Device& entry : devices_) entry.device->dev().stop_reconnecting();
  }
  report();
  channel_->finish();
  board_.guest_up();
  finish(absl::OkStatus(), Outcome::kMoved);
}

// The guest may run there.
void MigrationSource::Impl::lost_answer(const absl::Status& why) {
  const absl::Status status = annotate(
      why, "the commit was sent, and the destination did not confirm it");
  for (Device& entry : devices_) entry.device->dev().stop_reconnecting();
  channel_->drop();
  finish(status, Outcome::kUnknown);
}

void MigrationSource::Impl::finish(absl::Status status, Outcome outcome) {
  limit_.reset();
  tracker_->disable();
  busy_ = false;
  outcome_ = outcome;
  board_.enter(Phase::kOver);
  board_.update([&](MigrationProgress& p) {
    p.outcome = outcome;
    p.status = status;
  });
  post(std::exchange(done_, nullptr), std::move(status));
}

// ---------------------------------------------------------------------------
// The way back
// ---------------------------------------------------------------------------

absl::Status MigrationSource::Impl::cancel() {
  const Phase phase = board_.phase();
  if (!busy_ || phase == Phase::kRollingBack) {
    return absl::FailedPreconditionError("cancel: nothing is under way");
  }
  if (commit_end_.has_value() && to_ == To::kHost) {
    return absl::FailedPreconditionError(
        "cancel: the destination was told that the guest is its own");
  }
  fail(absl::CancelledError("cancelled"));
  return absl::OkStatus();
}

void MigrationSource::Impl::fail(const absl::Status& why) {
  const Phase phase = board_.phase();
  if (!busy_ || phase == Phase::kRollingBack) return;
  const bool take_back =
      options_.on_lost_answer == Options::LostAnswer::kTakeBack;
  if (commit_is_out() && !take_back) return lost_answer(why);
  error_ = annotate(why, to_string(phase));
  board_.enter(Phase::kRollingBack);
  limit_.reset();
  drain_.reset();
  // ORDER: no byte of a commit leaves any more before the guest runs here.
  if (channel_ != nullptr) {
    commit_end_.has_value() ? channel_->drop() : channel_->goodbye(error_);
  }
  tracker_->disable();
  close_sinks(error_);
  go_back_if_possible();
}

void MigrationSource::Impl::take_back(Completion done) {
  const bool may = outcome_ == Outcome::kMoved ||
                   outcome_ == Outcome::kUnknown || outcome_ == Outcome::kStuck;
  if (busy_ || !may) {
    return post(std::move(done),
                absl::FailedPreconditionError(
                    "take back: the guest is not to be taken back"));
  }
  busy_ = true;
  done_ = std::move(done);
  error_ = absl::OkStatus();
  board_.enter(Phase::kRollingBack);
  go_back_if_possible();
}

// Once nothing is under way: the devices, the guest, the log.
void MigrationSource::Impl::go_back_if_possible() {
  if (outstanding_ != 0) return;
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].to_start) restart(i);
  }
  --outstanding_;
  all_restarted();
}

// A back-end may have ended after it gave its state away, or for any reason: it
// is connected again.
void MigrationSource::Impl::restart(size_t index) {
  Device& entry = devices_[index];
  VhostDev& dev = entry.device->dev();
  if (dev.state() != DeviceState::kBroken) {
    return entry.device->start(after(&Impl::restarted, index));
  }
  if (!is_reconnecting(dev)) {
    return dev.init(after(&Impl::reconnected, index));
  }
  // It starts when its back-end is there again: the guest does not wait.
  entry.to_start = false;
  entry.device->start([](const absl::Status&) {});
}

void MigrationSource::Impl::reconnected(size_t index, absl::Status status) {
  Device& entry = devices_[index];
  VhostDev& dev = entry.device->dev();
  for (size_t i = 0; status.ok() && i < entry.bases.size(); ++i) {
    const QueueIndex vq{static_cast<uint32_t>(i)};
    if (entry.device->serves(vq))
      status = dev.set_queue_base(vq, entry.bases[i]);
  }
  if (!status.ok()) return restarted(index, std::move(status));
  entry.device->start(then(&Impl::restarted, index));
}

// A device that does not start is one whose back-end is lost, as it may be at
// any time: the guest runs on without it, and the VMM hears of it.
void MigrationSource::Impl::restarted(size_t index, absl::Status status) {
  --outstanding_;
  Device& entry = devices_[index];
  entry.to_start = false;
  if (!status.ok()) {
    const std::string what = absl::StrCat(
        entry.device->name(), " did not start again: ", status.message());
    error_ = error_.ok()
                 ? absl::Status(status.code(), what)
                 : absl::Status(error_.code(),
                                absl::StrCat(error_.message(), "; ", what));
  }
  all_restarted();
}

void MigrationSource::Impl::all_restarted() {
  if (outstanding_ != 0) return;
  if (!paused_) return context_.when_log_settled(then(&Impl::log_off));
  vmm_.resume_guest(after(&Impl::guest_resumed));
}

void MigrationSource::Impl::guest_resumed(absl::Status status) {
  --outstanding_;
  board_.guest_up();
  if (!status.ok()) {
    return finish(annotate(status, "the guest could not be resumed"),
                  Outcome::kStuck);
  }
  paused_ = false;
  context_.when_log_settled(then(&Impl::log_off));
}

// The back-ends have stopped to log; what one of them said to that is its own
// affair.
void MigrationSource::Impl::log_off(absl::Status) {
  finish(error_, Outcome::kNotMoved);
}

}  // namespace vhost
