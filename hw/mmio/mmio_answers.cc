// SPDX-License-Identifier: Apache-2.0
// What takes time: what follows from an answer.
#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "hw/mmio/virtio_mmio_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// How long after a stop that could not be verified it is looked at again.
constexpr Duration kResetPause = std::chrono::seconds(1);
// How long after a look at the configuration that came to nothing.
constexpr Duration kConfigPause = std::chrono::milliseconds(100);

}  // namespace

void VirtioMmio::Impl::answered(uint64_t serial, absl::Status status) {
  const auto at = std::find_if(
      begun_.begin(), begun_.end(),
      [serial](const Operation& begun) { return begun.serial == serial; });
  if (at == begun_.end()) return;
  if (at->work == Work::kWriteConfig && status.ok() && read_back(*at)) return;
  at->result = std::move(status);
  // ORDER: what ends another is over after that one.
  const auto can_be_ended = [](const Operation& begun) {
    return begun.work == Work::kStart || begun.work == Work::kResume;
  };
  const bool ends = at->work == Work::kReset || at->work == Work::kPause;
  if (ends && std::any_of(begun_.begin(), begun_.end(), can_be_ended)) return;
  at->ended_early = can_be_ended(*at) && !at->result->ok() && begun_.size() > 1;
  if (at->ended_early && at->work == Work::kStart &&
      find_begun(Work::kPause) != nullptr) {
    // The driver still waits for it, through the pause.
    at->result.reset();
    at->ended_early = false;
    const absl::MutexLock lock(&mutex_);
    waiting_.push_front(std::move(*at));
    begun_.erase(at);
  } else {
    finish(at);
  }
  if (dead_ || begun_.size() != 1) return;
  if (begun_.front().result.has_value()) finish(begun_.begin());
}

// What the device made of it is what the driver reads from now on.
bool VirtioMmio::Impl::read_back(Operation& write) {
  TransportOperations* operations = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    operations = operations_;
  }
  if (operations == nullptr || std::exchange(write.reads_back, true)) {
    return false;
  }
  read_config(write, *operations);
  return true;
}

void VirtioMmio::Impl::finish(Operations::iterator at) {
  const bool was_held = hold_reported_;
  if (at->work == Work::kReset && !reset_is_over(*at)) return;
  if (at->work == Work::kConfigChanged && looks_again(*at->result)) {
    begun_.erase(at);
    return advance_soon();
  }
  Operation over = std::move(*at);
  begun_.erase(at);
  const bool interrupts = note_outcome(over);
  const absl::Status status =
      annotate(annotate(*over.result, name_of(over)), options_.name);
  advance_soon();
  if (interrupts && !interrupt()) return;
  // Of others their completion tells.
  const bool unheard =
      is_guests(over.work) || over.work == Work::kConfigChanged;
  const bool told = (over.work == Work::kReset && was_held) || over.ended_early;
  if (!status.ok() && unheard && !told && !report(status)) return;
  if (!run_all(std::move(over.writes))) return;
  if (over.done) over.done(status);
  if (!dead_ && over.work == Work::kConfigChanged && events() != nullptr) {
    events()->config_changed();
  }
}

// What the driver sees of it; whether it has to be interrupted.
bool VirtioMmio::Impl::note_outcome(const Operation& over) {
  const bool ok = over.result->ok();
  const absl::MutexLock lock(&mutex_);
  switch (over.work) {
    case Work::kStart:
      if (ok) ++counters_.starts;
      return registers_.complete(over.action, ok);
    case Work::kReset:
      return registers_.complete(over.action, true);
    case Work::kWriteConfig:
      if (ok && over.reads_back) registers_.set_config(*fresh_config_);
      return registers_.complete(over.action, ok);
    case Work::kStartQueue:
    case Work::kStopQueue:
      return registers_.complete(over.action, ok);
    case Work::kRefresh:
    case Work::kConfigChanged:
      if (ok && fresh_config_ != nullptr) registers_.set_config(*fresh_config_);
      return ok && over.work == Work::kConfigChanged &&
             registers_.announce_config();
    case Work::kPause:
      return false;
    case Work::kResume:
      return !ok && !over.ended_early && registers_.lose_run();
  }
  return false;
}

// An operation that the VMM asked the device for itself was in the way: what
// changed is still to be read.
bool VirtioMmio::Impl::looks_again(const absl::Status& status) {
  if (!absl::IsFailedPrecondition(status) || !live()) return false;
  config_timer_ =
      loop_.timer(loop_.now() + kConfigPause, [weak = weak_from_this()] {
        const std::shared_ptr<Impl> self = weak.lock();
        if (self != nullptr && !self->dead_) self->config_changed();
      });
  return true;
}

// -- Resets that could not be verified ---------------------------------------

bool VirtioMmio::Impl::reset_is_over(Operation& reset) {
  const absl::Status& status = *reset.result;
  // kAborted: the guest's memory is let go of, the rest was refused.
  const bool over = status.ok() || absl::IsAborted(status) ||
                    options_.reset_policy == ResetPolicy::kComplete ||
                    reset_released_;
  if (!over) {
    hold_reset(reset);
    return false;
  }
  held_ = absl::OkStatus();
  hold_reported_ = false;
  reset_released_ = false;
  reset_timer_.reset();
  return true;
}

void VirtioMmio::Impl::hold_reset(Operation& reset) {
  held_ = annotate(annotate(*reset.result, name_of(reset)), options_.name);
  reset.result.reset();
  reset_timer_ =
      loop_.timer(loop_.now() + kResetPause, [weak = weak_from_this()] {
        const std::shared_ptr<Impl> self = weak.lock();
        if (self != nullptr && !self->dead_) self->ask_reset_again();
      });
  advance_soon();
  if (std::exchange(hold_reported_, true)) return;
  bool interrupts = false;
  {
    const absl::MutexLock lock(&mutex_);
    interrupts = registers_.complete(reset.action, false);
  }
  const absl::Status why = held_;
  if (interrupts && !interrupt()) return;
  report(why);
}

// The back-end is gone, or another one is there, or time went by.
void VirtioMmio::Impl::ask_reset_again() {
  Operation* const reset = find_begun(Work::kReset);
  if (held_.ok() || reset == nullptr) return;
  held_ = absl::OkStatus();
  reset_timer_.reset();
  TransportOperations* operations = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    reset->serial = ++serials_;
    operations = operations_;
  }
  if (operations != nullptr) return ask(*reset, *operations);
  answered(reset->serial, absl::OkStatus());
}

void VirtioMmio::Impl::release_reset() {
  const auto reset = std::find_if(
      begun_.begin(), begun_.end(),
      [](const Operation& begun) { return begun.work == Work::kReset; });
  if (reset == begun_.end()) return;
  reset_released_ = true;
  if (held_.ok()) return;  // Its answer is on the way.
  reset->result = held_;
  finish(reset);
}

// -- Who is told --------------------------------------------------------------

void VirtioMmio::Impl::fail() {
  bool interrupts = false;
  {
    const absl::MutexLock lock(&mutex_);
    interrupts = registers_.fail();
  }
  if (interrupts) interrupt();
}

bool VirtioMmio::Impl::interrupt() {
  if (options_.interrupt) options_.interrupt();
  return !dead_;
}

bool VirtioMmio::Impl::report(const absl::Status& why) {
  if (options_.failed) options_.failed(why);
  return !dead_;
}

bool VirtioMmio::Impl::run_all(Callbacks callbacks) {
  for (EventLoop::Callback& callback : callbacks) {
    if (callback) callback();
    if (dead_) return false;
  }
  return true;
}

}  // namespace vhost
