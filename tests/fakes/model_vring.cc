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
  absl::Status status = ring_.begin();
  if (status.ok() && polled_) status = ring_.suppress_kicks();
  if (!status.ok()) fail(annotate(status, "started"));
}

void ModelVring::stop() {
  started_ = false;
  polled_ = false;
  held_ = false;
  in_flight_.clear();
  unwatch_kick();
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
  if (enabled_ && !held_ && host_->driver_ok()) {
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
  for (uint32_t budget = ring_.num(); budget > 0; --budget) {
    absl::StatusOr<std::optional<ModelRing::Taken>> taken = ring_.take();
    if (!taken.ok()) return taken.status();
    if (!taken->has_value()) {
      if (polled_) return false;
      const absl::StatusOr<bool> more = ring_.want_kicks();
      if (!more.ok()) return more.status();
      if (!*more) return false;
      continue;
    }
    (*taken)->request.queue = index_;
    in_flight_.push_back(
        {now + environment_->options.latency, **std::move(taken)});
  }
  return true;
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
    VHOST_RETURN_IF_ERROR(ring_.give_back(first.taken, *written));
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
  ++environment_->counters.broken_rings;
  environment_->tell(absl::StrCat("vq ", index_, ": ", why.message()));
  const bool told = err_.has_value() && err_->valid();
  if (told) signal_notifier(*err_);
  host_->vring_broke(index_, told || err_.has_value());
}

}  // namespace vhost::testing
