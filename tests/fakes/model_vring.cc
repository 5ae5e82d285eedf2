// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_vring.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

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
  const absl::Status status = begin();
  if (!status.ok()) return fail(annotate(status, "started"));
  note_active();
}

absl::Status ModelVring::begin() {
  VHOST_RETURN_IF_ERROR(ring_.begin());
  inflight_.reset();
  if (!region_.empty()) VHOST_RETURN_IF_ERROR(recover());
  return polled_ ? ring_.suppress_kicks() : absl::OkStatus();
}

// The base counts for a region that nobody used yet; otherwise the region says
// where the ring stands.
absl::Status ModelVring::recover() {
  if (ring_.num() > region_size_) {
    return absl::InvalidArgumentError(
        absl::StrCat("an inflight region for ", region_size_,
                     " descriptors in a ring of ", ring_.num()));
  }
  const absl::StatusOr<bool> used =
      check_inflight_region(region_, RingFormat::kSplit, region_size_);
  if (!used.ok()) return used.status();
  absl::StatusOr<SplitInflight> inflight =
      SplitInflight::open(region_, region_size_, &environment_->stores);
  if (!inflight.ok()) return inflight.status();
  const absl::StatusOr<std::vector<uint16_t>> heads =
      inflight->recover(ring_.published());
  if (!heads.ok()) return heads.status();
  VHOST_RETURN_IF_ERROR(check_alive());
  inflight_ = *std::move(inflight);
  if (!*used) return absl::OkStatus();
  ring_.go_on(heads->size());
  for (const uint16_t head : *heads) {
    absl::StatusOr<ModelRing::Taken> taken = ring_.retake(head);
    if (!taken.ok()) return annotate(taken.status(), "resubmitted");
    taken->request.queue = index_;
    resubmitted_.push_back(*std::move(taken));
  }
  environment_->counters.resubmitted += heads->size();
  return absl::OkStatus();
}

absl::Status ModelVring::check_alive() const {
  return environment_->stores.dead() ? absl::CancelledError("killed")
                                     : absl::OkStatus();
}

absl::Status ModelVring::note_taken(const ModelRing::Taken& taken) {
  if (inflight_.has_value() && !taken.resubmitted) {
    VHOST_RETURN_IF_ERROR(inflight_->take(taken.head));
  }
  return check_alive();
}

void ModelVring::put_back(ModelRing::Taken taken) {
  if (taken.resubmitted) {
    resubmitted_.push_front(std::move(taken));
  } else {
    ring_.put_back(taken);
  }
}

absl::Status ModelVring::give_back(const ModelRing::Taken& taken,
                                   uint32_t written, ModelFault fault) {
  if (inflight_.has_value()) {
    VHOST_RETURN_IF_ERROR(inflight_->put(taken.head));
  }
  VHOST_RETURN_IF_ERROR(ring_.give_back(taken, written, fault));
  return check_alive();
}

// Shows what was handed back; whether the driver wants to be notified.
absl::StatusOr<bool> ModelVring::publish() {
  const uint16_t before = ring_.published();
  const absl::StatusOr<bool> wanted = ring_.publish();
  if (!wanted.ok()) return wanted;
  if (inflight_.has_value() && ring_.published() != before) {
    inflight_->commit(ring_.published());
  }
  VHOST_RETURN_IF_ERROR(check_alive());
  return wanted;
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
  resubmitted_.clear();
  inflight_.reset();
  unwatch_kick();
  note_active();
}

void ModelVring::reset() {
  stop();
  enabled_ = false;
  broken_ = false;
  ring_.forget();
  region_ = {};
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
  const absl::StatusOr<bool> wanted = publish();
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
    VHOST_RETURN_IF_ERROR(note_taken(**taken));
    in_flight_.push_back(
        {now + environment_->options.latency, **std::move(taken)});
  }
  return true;
}

// The next request.  None: the driver will kick when there is one.
absl::StatusOr<std::optional<ModelRing::Taken>> ModelVring::take_one() {
  if (!resubmitted_.empty()) {
    ModelRing::Taken first = std::move(resubmitted_.front());
    resubmitted_.pop_front();
    return first;
  }
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
    VHOST_RETURN_IF_ERROR(note_taken(**taken));
    VHOST_RETURN_IF_ERROR(give_back(**taken, 0));
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
        VHOST_RETURN_IF_ERROR(note_taken(taken[i]));
        VHOST_RETURN_IF_ERROR(give_back(taken[i], received->written[i]));
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
  for (; !taken.empty(); taken.pop_back()) put_back(std::move(taken.back()));
  return false;
}

ModelFault ModelVring::next_fault() {
  const ModelOptions& options = environment_->options;
  return handed_back_++ == options.fault_after ? options.fault
                                               : ModelFault::kNone;
}

absl::Status ModelVring::finish(ModelTime now) {
  const auto end = std::find_if(
      in_flight_.begin(), in_flight_.end(),
      [now](const InFlight& request) { return request.due > now; });
  auto due = static_cast<size_t>(end - in_flight_.begin());
  const bool newest_first = environment_->options.newest_first;
  for (size_t left = newest_first ? (due + 1) / 2 : due; left > 0; --left) {
    const auto at =
        in_flight_.begin() + static_cast<ptrdiff_t>(newest_first ? --due : 0);
    const InFlight first = std::move(*at);
    in_flight_.erase(at);
    const absl::StatusOr<uint32_t> written =
        environment_->device->handle(first.taken.request);
    if (!written.ok()) {
      return annotate(written.status(),
                      absl::StrCat("descriptor ", first.taken.head));
    }
    VHOST_RETURN_IF_ERROR(give_back(first.taken, *written, next_fault()));
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
  resubmitted_.clear();
  if (environment_->stores.dead()) return;  // Nobody is there to say so.
  note_active();
  ++environment_->counters.broken_rings;
  environment_->tell(absl::StrCat("vq ", index_, ": ", why.message()));
  const bool told = err_.has_value() && err_->valid();
  if (told) signal_notifier(*err_);
  host_->vring_broke(index_, told || err_.has_value());
}

}  // namespace vhost::testing
