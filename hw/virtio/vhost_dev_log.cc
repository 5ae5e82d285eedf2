// SPDX-License-Identifier: Apache-2.0
// The dirty log of one device: on, off and into another bitmap while rings run.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/log_set.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr absl::string_view kLogUpdate = "log update";

}  // namespace

// Whether the back-end could mark what it writes.
absl::Status VhostDev::Impl::can_log() const {
  if (!traits().features.has(kFeatureLogAll)) {
    return absl::UnimplementedError(
        "back-end does not offer LOG_ALL: it cannot tell which memory it "
        "writes");
  }
  if (!traits().takes_log) {
    return absl::UnimplementedError(
        "back-end does not take a shared dirty log");
  }
  // Back-ends of other processes disagree whether the used ring is marked at
  // its IOVA, which a guest may choose as high as it likes, or at what that
  // stands for.
  if (behind_iommu() && !traits().logs_behind_iommu) {
    return absl::UnimplementedError(
        "back-end cannot keep a dirty log behind an IOMMU");
  }
  return absl::OkStatus();
}

// Where the device should log now; null: nowhere.
VhostDev::Impl::Log VhostDev::Impl::wanted_log() const {
  if (!log_refused_.ok() || !can_log().ok()) return nullptr;
  return context_.impl().log.impl().current();
}

// The same for a device that is about to be told of all memory.
VhostDev::Impl::Log VhostDev::Impl::log_for_start() {
  Log log = wanted_log();
  if (log == nullptr || log->reaches(view().last_address())) return log;
  log_refused(absl::ResourceExhaustedError(
      "the dirty log does not reach the end of memory"));
  return nullptr;
}

bool VhostDev::Impl::log_due() const {
  if (state() != DeviceState::kRunning) return false;
  const Log wanted = wanted_log();
  if (wanted == log_) return false;
  if (wanted == nullptr || log_ == nullptr) return true;
  // A smaller one has to wait until the back-end gave memory back.
  return wanted->size() >= log_->size() ||
         wanted->reaches(applied_.last_address());
}

absl::Status VhostDev::Impl::log_changed() {
  using enum DeviceState;
  if (dead_ || state() == kCreated || state() == kBroken) {
    return absl::OkStatus();
  }
  absl::Status able;
  if (context_.log().active()) {
    able = can_log();
  } else {
    log_refused_ = absl::OkStatus();  // The next one is tried again.
    update_blockers();
    if (state() == kReady) let_go_of_logs();
  }
  if (!log_due() || current_.has_value()) return able;  // See go_on().
  if (inside_backend()) {
    defer([](Impl& self) { self.go_on(); });
    return able;
  }
  launch_log_update();
  return log_settled() ? log_status_ : able;
}

bool VhostDev::Impl::log_settled() const {
  if (current_.has_value() && current_->about_log) return false;
  if (state() == DeviceState::kStarting) {
    return (attempt_.log != nullptr) == (wanted_log() != nullptr);
  }
  return !log_due();
}

void VhostDev::Impl::launch_log_update() {
  Operation update = {.name = kLogUpdate,
                      .states = {DeviceState::kRunning},
                      .make = [this] { return log_task(); },
                      .internal = true,
                      .about_log = true};
  update.serial = ++serials_;
  launch(std::move(update));
}

// The back-end is lost.  It may still be writing what it was told of: that
// stays part of the log until there is a new connection.
void VhostDev::Impl::abandon_log_update(const absl::Status& why) {
  const bool settled = log_settled();
  keep_past_log(std::exchange(log_, nullptr));
  if (settled || state() == DeviceState::kBroken) return;
  context_.impl().user_log_settled(
      this, annotate(annotate(why, kLogUpdate), options_.name));
}

// The rings of a start run.  The back-end acknowledged the log with what comes
// before them, so that they are the request after it.
void VhostDev::Impl::log_started() {
  log_ = std::exchange(attempt_.log, nullptr);
  if (!attempt_.queues.empty()) let_go_of_logs();
}

// The back-end may write `log` (null: none) until it is known not to.
void VhostDev::Impl::keep_past_log(Log log) {
  if (log == nullptr) return;
  const auto end = past_logs_.end();
  if (std::find(past_logs_.begin(), end, log) != end) return;
  past_logs_.push_back(std::move(log));
}

// It is known not to write any of them.
void VhostDev::Impl::let_go_of_logs() {
  if (state() != DeviceState::kStarting) attempt_.log = nullptr;
  if (past_logs_.empty()) return;
  past_logs_.clear();
  context_.impl().log.impl().tidy();
}

// The device runs on without the log, for as long as this log is on.
void VhostDev::Impl::log_refused(const absl::Status& why) {
  log_refused_ = why;
  update_blockers();
}

LogArea VhostDev::Impl::area_of(const LogBitmap& log) const {
  LogArea area = log.area();
  area.event = context_.impl().log_hint.event();
  return area;
}

// What turns logging of the running rings on, or off where it is on.
SetRingLogging VhostDev::Impl::ring_logging(bool on) const {
  SetRingLogging out;
  for (const Queue& queue : queues_) {
    if (!queue.started || queue.ring.log_used == on) continue;
    VringSetup& ring = out.queues.emplace_back();
    // The same addresses again: stricter back-ends compare them.
    ring.index = queue.backend;
    ring.num = queue.ring.num;
    ring.addr = queue.ring.addr;
    ring.log_used = on;
  }
  return out;
}

void VhostDev::Impl::note_ring_logging(const SetRingLogging& asked,
                                       const BatchResult& result) {
  for (const VringSetup& ring : asked.queues) {
    bool applied = result.status.ok();
    for (const Step& step : result.applied) {
      const bool about_ring = step.kind == StepKind::kAddr;
      if (about_ring && step.index == to_int(ring.index)) applied = true;
    }
    if (applied) find(ring.index)->ring.log_used = ring.log_used;
  }
}

Task VhostDev::Impl::log_task() {
  const MonotonicTime deadline = after(options_.start_timeout);
  const Log wanted = wanted_log();
  absl::Status status;
  if (wanted == nullptr) {
    Task off = switch_log_off(deadline);
    status = co_await off;
  } else if (log_ == nullptr) {
    Task on = switch_log_on(wanted, deadline);
    status = co_await on;
  } else {
    Task other = replace_log(wanted, deadline);
    status = co_await other;
  }
  co_return status;
}

// Three phases, each acknowledged before the next: a back-end that marks pages
// without a log, or beyond its end, dies of it.
Task VhostDev::Impl::switch_log_on(Log log, MonotonicTime deadline) {
  keep_past_log(log);  // From now on it may.
  Verb base = SetLog{.log = area_of(*log)};
  BatchResult set = co_await Submit(runner_, std::move(base), deadline);
  absl::Status status = judge(set);
  if (state() == DeviceState::kBroken) co_return status;
  if (!status.ok()) {
    log_refused(status);
    std::erase(past_logs_, log);  // It does not have this one.
    co_return status;
  }

  Verb features = SetFeatures{.features = wire_features(true), .running = true};
  BatchResult marked = co_await Submit(runner_, std::move(features), deadline);
  status = judge(marked);
  if (state() == DeviceState::kBroken) co_return status;
  const bool features_set = status.ok();

  const SetRingLogging rings = ring_logging(true);
  if (status.ok() && !rings.queues.empty()) {
    Verb verb = rings;
    BatchResult logging = co_await Submit(runner_, std::move(verb), deadline);
    note_ring_logging(rings, logging);
    status = judge(logging);
    if (state() == DeviceState::kBroken) co_return status;
  }
  if (status.ok()) {
    // What it refused to leave before it has left by now.
    log_ = std::move(log);
    let_go_of_logs();
    co_return status;
  }

  log_refused(status);
  Task back = clear_log_marks(features_set, deadline);
  const absl::Status undone = co_await back;
  if (!undone.ok()) become_broken(annotate(undone, "roll-back"));
  co_return status;
}

// What a back-end refuses here it goes on doing, into a bitmap that is kept for
// it and read by nobody: no harm is done, and the VMM hears of it.
Task VhostDev::Impl::switch_log_off(MonotonicTime deadline) {
  keep_past_log(std::exchange(log_, nullptr));
  Task clear = clear_log_marks(/*features=*/true, deadline);
  const absl::Status status = co_await clear;
  co_return status;
}

// Rings that log do so no more; then, if `features`, nor does the device; then
// there is no log.  Tries all of it; the first error.
Task VhostDev::Impl::clear_log_marks(bool features, MonotonicTime deadline) {
  absl::Status first;
  const SetRingLogging rings = ring_logging(false);
  if (!rings.queues.empty()) {
    Verb verb = rings;
    BatchResult quiet = co_await Submit(runner_, std::move(verb), deadline);
    note_ring_logging(rings, quiet);
    first = judge(quiet);
    if (state() == DeviceState::kBroken) co_return first;
  }
  if (features) {
    Verb verb = SetFeatures{.features = wire_features(false), .running = true};
    BatchResult unmarked = co_await Submit(runner_, std::move(verb), deadline);
    first.Update(judge(unmarked));
    if (state() == DeviceState::kBroken) co_return first;
  }
  if (!traits().needs_shared_log) {
    // The kernel has an address of ours.  There is no such message for a
    // process, which has a mapping of its own.
    Verb verb = SetLog();
    BatchResult gone = co_await Submit(runner_, std::move(verb), deadline);
    first.Update(judge(gone));
    if (state() == DeviceState::kBroken) co_return first;
  }
  if (first.ok()) let_go_of_logs();
  co_return first;
}

// A request that changes nothing.
Verb VhostDev::Impl::same_again() const {
  SetRingLogging rings;
  for (const Queue& queue : queues_) {
    if (queue.started) rings.queues.push_back(queue.ring);
  }
  if (!rings.queues.empty()) return rings;
  return SetFeatures{.features = wire_features(true), .running = true};
}

// Into another bitmap.  A thread of the back-end may have the old one for a
// moment more: whatever it answers next says that the moment is over.
Task VhostDev::Impl::replace_log(Log next, MonotonicTime deadline) {
  Verb base = SetLog{.log = area_of(*next)};
  BatchResult set = co_await Submit(runner_, std::move(base), deadline);
  absl::Status status = judge(set);
  if (state() == DeviceState::kBroken) co_return status;
  keep_past_log(std::exchange(log_, status.ok() ? next : nullptr));
  if (status.ok()) {
    Verb verb = same_again();
    BatchResult fence = co_await Submit(runner_, std::move(verb), deadline);
    status = judge(fence);
    if (state() == DeviceState::kBroken) co_return status;
  }
  if (status.ok()) {
    let_go_of_logs();
    co_return status;
  }

  // It would die of a page that its log has no bit for.
  log_refused(status);
  keep_past_log(std::exchange(log_, nullptr));
  Task back = clear_log_marks(/*features=*/true, deadline);
  const absl::Status undone = co_await back;
  if (!undone.ok()) become_broken(annotate(undone, "roll-back"));
  co_return status;
}

// Before memory is added: the log reaches its end, or the device logs no more.
Task VhostDev::Impl::make_room_in_log() {
  if (log_ == nullptr || log_->reaches(view().last_address())) {
    co_return absl::OkStatus();
  }
  const MonotonicTime deadline = after(options_.start_timeout);
  Log next = wanted_log();
  if (next != nullptr && !next->reaches(view().last_address())) {
    log_refused(absl::ResourceExhaustedError(
        "the dirty log does not reach the end of memory"));
    next = nullptr;
  }
  absl::Status status;
  if (next != nullptr) {
    Task other = replace_log(std::move(next), deadline);
    status = co_await other;
  } else {
    Task off = switch_log_off(deadline);
    status = co_await off;
    if (!status.ok()) become_broken(annotate(status, "log"));
  }
  // The update itself may still succeed; the log's fate is told by itself.
  if (!status.ok()) context_.impl().user_log_settled(this, status);
  co_return status;
}

}  // namespace vhost
