// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/state_mover.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/sigpipe_held.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// After so many bytes the loop gets a turn.
constexpr uint64_t kTurnBytes = 4 * kMaxStateChunk;

}  // namespace

void StateMover::begin(Over over) {
  over_ = std::move(over);
  last_moved_ = loop_.now();
  waits_for_other_ = false;
  arm();
  turn();
}

bool StateMover::turn() {
  if (over_ == nullptr || calling_out_) return false;
  const uint64_t before = moved_;
  const std::shared_ptr<StateMover*> self = self_;
  calling_out_ = true;
  const absl::StatusOr<Step> stopped = run_steps();
  calling_out_ = false;
  if (over_ == nullptr) return false;  // Dropped inside.
  const bool progress = moved_ != before;
  if (progress) last_moved_ = loop_.now();
  if (!stopped.ok()) {
    finish(stopped.status());
  } else if (*stopped == Step::kDone) {
    finish(absl::OkStatus());
  } else if (!progress && late()) {
    finish(too_late());  // Of a loop that does not turn.
  } else if (*stopped == Step::kWaitsForOther) {
    wait_for_other();
  } else {
    watch_pipe(wanted());
  }
  return progress;
}

// Until something has to be waited for.
absl::StatusOr<StateMover::Step> StateMover::run_steps() {
  const SigpipeHeld held;
  const uint64_t before = moved_;
  while (true) {
    absl::StatusOr<Step> done = step();
    if (!done.ok() || *done != Step::kMoved) return done;
    if (over_ == nullptr || moved_ - before >= kTurnBytes) return done;
  }
}

void StateMover::watch_pipe(IoEvents events) {
  if (waits_for_other_) call_when_ready(nullptr);
  waits_for_other_ = false;
  if (watch_ != nullptr && watched_ == events) return;
  watched_ = events;
  if (watch_ != nullptr) {
    watch_->set_events(events);
    return;
  }
  watch_ = loop_.watch(channel_.fd(), events, [this](IoEvents) { turn(); });
}

void StateMover::wait_for_other() {
  if (watches_hang_up()) {
    watch_pipe(IoEvents());
  } else {
    // A pipe that is hung up is ready whatever is asked.
    watch_.reset();
    watched_.reset();
  }
  waits_for_other_ = true;
  call_when_ready([weak = std::weak_ptr<StateMover*>(self_)] {
    const std::shared_ptr<StateMover*> self = weak.lock();
    if (self == nullptr || (*self)->over_ == nullptr) return;
    (*self)->waits_for_other_ = false;
    (*self)->turn();
  });
}

void StateMover::fail(const absl::Status& why) {
  if (over_ != nullptr) finish(why);
}

void StateMover::drop() {
  over_ = nullptr;
  watch_.reset();
  watched_.reset();
  timer_.reset();
  self_ = std::make_shared<StateMover*>(this);
}

void StateMover::finish(const absl::Status& status) {
  Over over = std::move(over_);
  if (waits_for_other_) call_when_ready(nullptr);
  waits_for_other_ = false;
  drop();
  // ORDER: last: it may destroy this.
  over(status);
}

void StateMover::arm() {
  timer_ = loop_.timer(last_moved_ + limits_.idle_timeout, [this] {
    if (late()) {
      fail(too_late());
    } else {
      arm();
    }
  });
}

bool StateMover::late() const {
  return loop_.now() >= last_moved_ + limits_.idle_timeout;
}

absl::Status StateMover::too_late() const {
  return absl::DeadlineExceededError(
      absl::StrCat("nothing moved for ",
                   std::chrono::duration_cast<std::chrono::milliseconds>(
                       limits_.idle_timeout)
                       .count(),
                   " ms, after ", moved_, " bytes"));
}

absl::Status StateMover::count(uint64_t bytes) {
  moved_ += bytes;
  if (moved_ <= limits_.most_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("more than ", limits_.most_bytes, " bytes of state"));
}

absl::StatusOr<StateMover::Step> StateSaver::step() {
  if (ending_) {
    const absl::StatusOr<bool> ended = sink_.end();
    if (!ended.ok()) return ended.status();
    return *ended ? Step::kDone : Step::kWaitsForOther;
  }
  const absl::StatusOr<StateChannel::Available> there = channel_.available();
  if (!there.ok()) return there.status();
  if (there->end) return Step::kDone;
  if (there->bytes == 0) return Step::kWaitsForPipe;
  if (there->bytes > limits_.most_bytes - moved_) {
    return count(limits_.most_bytes - moved_ + 1);
  }
  const absl::StatusOr<uint64_t> taken =
      sink_.take(channel_.pipe(), there->bytes);
  if (!taken.ok()) return taken.status();
  if (*taken == 0) return Step::kWaitsForOther;
  if (*taken > there->bytes) {
    return absl::InternalError("the sink took more than there was");
  }
  VHOST_RETURN_IF_ERROR(count(*taken));
  return Step::kMoved;
}

absl::StatusOr<StateMover::Step> StateLoader::step() {
  const absl::StatusOr<bool> flushed = channel_.flush();
  if (!flushed.ok()) return look_for_reader(flushed.status());
  if (!*flushed) return Step::kWaitsForPipe;
  if (ended_) return Step::kDone;
  // One more than may be: a source that ends there is not too long.
  const uint64_t left = limits_.most_bytes - moved_;
  const uint64_t most =
      left == std::numeric_limits<uint64_t>::max() ? left : left + 1;
  const absl::StatusOr<StateSource::Given> given =
      source_.give(channel_.entry(), most);
  if (!given.ok()) return look_for_reader(given.status());
  VHOST_RETURN_IF_ERROR(count(given->bytes));
  ended_ = given->ended;
  if (given->bytes > 0 || ended_) return Step::kMoved;
  if (!given->dry) return Step::kWaitsForPipe;
  VHOST_RETURN_IF_ERROR(look_for_reader(absl::OkStatus()));
  return Step::kWaitsForOther;
}

absl::Status StateLoader::look_for_reader(const absl::Status& otherwise) {
  reader_gone_ = channel_.reader_gone();
  if (!reader_gone_) return otherwise;
  return absl::AbortedError(
      absl::StrCat("back-end stopped reading after ", moved_, " bytes"));
}

bool Moved::await_suspend(std::coroutine_handle<> handle) {
  if (runner_.frozen()) return true;
  handle_ = handle;
  waiting_ = true;
  beginning_ = true;
  mover_.begin([this](absl::Status status) { finish(std::move(status)); });
  beginning_ = false;
  return !result_.has_value() || runner_.frozen();
}

void Moved::finish(absl::Status status) {
  waiting_ = false;
  result_ = std::move(status);
  // ORDER: nothing after resume(): the frame, and this with it, may be gone.
  if (!beginning_) runner_.resume(handle_);
}

}  // namespace vhost
