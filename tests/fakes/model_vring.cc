// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_vring.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {

void ModelEnvironment::tell(std::string what) {
  trouble = std::move(what);
  if (options.on_trouble) options.on_trouble(trouble);
}

ModelRingState ModelVring::state() const {
  return {.started = started_,
          .enabled = enabled_,
          .broken = broken_,
          .next_avail = ring_.next_avail(),
          .in_flight = in_flight_.size()};
}

absl::Status ModelVring::set_kick(std::optional<UniqueFd> fd) {
  if (fd.has_value()) {
    make_nonblocking(*fd);
    VHOST_RETURN_IF_ERROR(
        environment_->poller.add(*fd, ModelWatch::kKick, index_));
  }
  unwatch_kick();
  polled_ = !fd.has_value();
  if (polled_) {
    start();
  } else {
    kick_ = *std::move(fd);
  }
  return absl::OkStatus();
}

void ModelVring::set_call(std::optional<UniqueFd> fd) {
  if (fd.has_value()) make_nonblocking(*fd);
  call_ = fd.has_value() ? *std::move(fd) : UniqueFd();
}

void ModelVring::set_err(std::optional<UniqueFd> fd) {
  if (fd.has_value()) make_nonblocking(*fd);
  err_ = fd.has_value() ? *std::move(fd) : UniqueFd();
}

void ModelVring::unwatch_kick() {
  if (!kick_.valid()) return;
  environment_->poller.remove(kick_);
  kick_.reset();
}

void ModelVring::on_kick() {
  if (!kick_.valid()) return;
  switch (read_notifier(kick_)) {
    case NotifierRead::kSet:
      start();
      break;
    case NotifierRead::kUnset:
      break;
    case NotifierRead::kDead:
      unwatch_kick();
      break;
  }
}

void ModelVring::start() {
  if (started_) return;
  started_ = true;
  broken_ = false;
  handed_back_ = 0;
  absl::Status status = ring_.begin();
  if (status.ok() && polled_) status = ring_.suppress_kicks();
  if (!status.ok()) return fail(annotate(status, "started"));
  note_active();
}

void ModelVring::set_enabled(bool enabled) {
  enabled_ = enabled;
  note_active();
}

void ModelVring::note_active() {
  const bool active = started_ && enabled_ && !broken_;
  if (active == active_) return;
  active_ = active;
  environment_->device->set_active(index_, active);
}

void ModelVring::stop() {
  started_ = false;
  polled_ = false;
  held_ = false;
  in_flight_.clear();
  unwatch_kick();
  note_active();
}

void ModelVring::reset() {
  stop();
  enabled_ = false;
  broken_ = false;
  ring_.forget();
}

void ModelVring::remap() {
  if (!started_ || broken_) return;
  const absl::Status status = ring_.map();
  if (!status.ok()) fail(annotate(status, "its memory went away"));
}

std::optional<ModelTime> ModelVring::due() const {
  if (in_flight_.empty()) return std::nullopt;
  return in_flight_.front().due;
}

bool ModelVring::serve(ModelTime now) {
  if (!started_ || broken_) return false;
  const absl::StatusOr<bool> more = work(now);
  if (!more.ok()) fail(more.status());
  return more.ok() && *more;
}

absl::StatusOr<bool> ModelVring::work(ModelTime now) {
  bool more = false;
  if (!held_ && host_->driver_ok()) {
    const absl::StatusOr<bool> taken = take(now);
    if (!taken.ok()) return taken.status();
    more = *taken;
  }
  VHOST_RETURN_IF_ERROR(finish(now));
  const absl::StatusOr<bool> wanted = ring_.publish();
  if (!wanted.ok()) return wanted.status();
  if (*wanted) notify();
  return more;
}

// Takes what is there, but not for ever: the front-end must be heard too.
absl::StatusOr<bool> ModelVring::take(ModelTime now) {
  const ModelQueueUse use = environment_->device->use_of(index_);
  if (!enabled_) {
    return use == ModelQueueUse::kTransmit ? discard()
                                           : absl::StatusOr<bool>(false);
  }
  if (use == ModelQueueUse::kReceive) return receive();
  for (uint32_t budget = ring_.num(); budget > 0; --budget) {
    absl::StatusOr<std::optional<ModelRing::Taken>> taken = take_one();
    if (!taken.ok()) return taken.status();
    if (!taken->has_value()) return false;
    in_flight_.push_back(
        {now + environment_->options.latency, **std::move(taken)});
  }
  return true;
}

// The next request.  None: the driver will kick when there is one.
absl::StatusOr<std::optional<ModelRing::Taken>> ModelVring::take_one() {
  while (true) {
    absl::StatusOr<std::optional<ModelRing::Taken>> taken = ring_.take();
    if (!taken.ok()) return taken.status();
    if (taken->has_value()) {
      (*taken)->request.queue = index_;
      return taken;
    }
    if (polled_) return std::nullopt;
    const absl::StatusOr<bool> more = ring_.want_kicks();
    if (!more.ok()) return more.status();
    if (!*more) return std::nullopt;
  }
}

absl::StatusOr<bool> ModelVring::discard() {
  for (uint32_t budget = ring_.num(); budget > 0; --budget) {
    const absl::StatusOr<std::optional<ModelRing::Taken>> taken = take_one();
    if (!taken.ok()) return taken.status();
    if (!taken->has_value()) return false;
    VHOST_RETURN_IF_ERROR(ring_.give_back(**taken, 0));
    ++environment_->counters.requests;
    ++environment_->counters.discarded;
  }
  return true;
}

absl::StatusOr<bool> ModelVring::receive() {
  for (uint32_t budget = ring_.num(); budget > 0; --budget) {
    const absl::StatusOr<bool> received = receive_one();
    if (!received.ok() || !*received) return received;
  }
  return true;
}

// Hands back the buffers of one thing that the device has to say; false if it
// has nothing to say, or the driver too few buffers.
absl::StatusOr<bool> ModelVring::receive_one() {
  std::vector<ModelRing::Taken> taken;
  std::vector<ModelRequest> buffers;
  while (true) {
    const absl::StatusOr<ModelReceived> received =
        environment_->device->receive(index_, buffers);
    if (!received.ok()) return received.status();
    if (!received->wants_buffer && !received->written.empty()) {
      for (size_t i = 0; i < taken.size(); ++i) {
        VHOST_RETURN_IF_ERROR(ring_.give_back(taken[i], received->written[i]));
      }
      environment_->counters.requests += taken.size();
      return true;
    }
    absl::StatusOr<std::optional<ModelRing::Taken>> next = std::nullopt;
    if (received->wants_buffer) next = take_one();
    if (!next.ok()) return next.status();
    if (!next->has_value()) break;
    buffers.push_back((*next)->request);
    taken.push_back(**std::move(next));
  }
  for (; !taken.empty(); taken.pop_back()) ring_.put_back(taken.back());
  return false;
}

ModelFault ModelVring::next_fault() {
  const ModelOptions& options = environment_->options;
  return handed_back_++ == options.fault_after ? options.fault
                                               : ModelFault::kNone;
}

absl::Status ModelVring::finish(ModelTime now) {
  while (!in_flight_.empty() && in_flight_.front().due <= now) {
    const InFlight first = std::move(in_flight_.front());
    in_flight_.pop_front();
    const absl::StatusOr<uint32_t> written =
        environment_->device->handle(first.taken.request);
    if (!written.ok()) {
      return annotate(written.status(),
                      absl::StrCat("descriptor ", first.taken.head));
    }
    VHOST_RETURN_IF_ERROR(ring_.give_back(first.taken, *written, next_fault()));
    ++environment_->counters.requests;
  }
  return absl::OkStatus();
}

void ModelVring::notify() {
  ++environment_->counters.notifications;
  if (!call_.has_value()) {
    host_->call_in_band(index_);
  } else if (call_->valid()) {
    signal_notifier(*call_);
  }
}

void ModelVring::fail(const absl::Status& why) {
  broken_ = true;
  in_flight_.clear();
  note_active();
  ++environment_->counters.broken_rings;
  environment_->tell(absl::StrCat("vq ", index_, ": ", why.message()));
  const bool told = err_.has_value() && err_->valid();
  if (told) signal_notifier(*err_);
  host_->vring_broke(index_, told || err_.has_value());
}

}  // namespace vhost::testing
