// SPDX-License-Identifier: Apache-2.0
// What takes time: what is done when, and asked of whom.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/mmio/virtio_mmio_impl.h"

namespace vhost {

VirtioMmio::Impl::Work VirtioMmio::Impl::work_of(const MmioAction& action) {
  switch (action.kind) {
    case MmioAction::Kind::kStart:
      return Work::kStart;
    case MmioAction::Kind::kStartQueue:
      return Work::kStartQueue;
    case MmioAction::Kind::kStopQueue:
      return Work::kStopQueue;
    case MmioAction::Kind::kWriteConfig:
      return Work::kWriteConfig;
    case MmioAction::Kind::kReset:
    case MmioAction::Kind::kNone:
    case MmioAction::Kind::kNotify:
      break;
  }
  return Work::kReset;
}

bool VirtioMmio::Impl::is_guests(Work work) {
  return work <= Work::kWriteConfig;
}

std::string VirtioMmio::Impl::name_of(const Operation& operation) {
  const uint32_t vq = to_int(operation.action.queue);
  switch (operation.work) {
    case Work::kStart:
      return "DRIVER_OK";
    case Work::kReset:
      return "reset";
    case Work::kStartQueue:
      return absl::StrCat("vq ", vq, ": made ready");
    case Work::kStopQueue:
      return absl::StrCat("vq ", vq, ": stopped or reset");
    case Work::kWriteConfig:
      return absl::StrCat("configuration write of ", operation.action.size,
                          " bytes at ", operation.action.offset);
    case Work::kRefresh:
    case Work::kConfigChanged:
      return "configuration read";
    case Work::kPause:
      return "pause";
    case Work::kResume:
      return "resume";
  }
  return "";
}

void VirtioMmio::Impl::push(Operation operation) {
  {
    const absl::MutexLock lock(&mutex_);
    // A change that is still to be looked at covers this one.
    const bool covered =
        operation.work == Work::kConfigChanged &&
        std::any_of(waiting_.begin(), waiting_.end(), [](const auto& other) {
          return other.work == Work::kConfigChanged;
        });
    if (covered) return;
    operation.serial = ++serials_;
    waiting_.push_back(std::move(operation));
  }
  advance_soon();
}

void VirtioMmio::Impl::advance_soon() {
  loop_.post([weak = weak_from_this()] {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self != nullptr && !self->dead_) self->advance();
  });
}

void VirtioMmio::Impl::advance() {
  Callbacks moot;
  Operations next;
  {
    const absl::MutexLock lock(&mutex_);
    moot = join_resets();
    next = take_next(moot);
    if (!next.empty()) registers_.begin(next.front().action);
  }
  const bool begins = !next.empty();
  begun_.splice(begun_.end(), next);
  if (!run_all(std::move(moot)) || !begins) return;
  launch(begun_.back());
}

// Later writes of 0 wait for the reset that is under way, if it still is.
VirtioMmio::Impl::Callbacks VirtioMmio::Impl::join_resets() {
  const auto is_reset = [](const Operation& operation) {
    return operation.work == Work::kReset && !operation.action.joins;
  };
  Callbacks over;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    if (at->work != Work::kReset || !at->action.joins) {
      ++at;
      continue;
    }
    Operation* reset = find_begun(Work::kReset);
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(), is_reset);
    if (reset == nullptr && waits != waiting_.end()) reset = &*waits;
    Callbacks& to = reset == nullptr ? over : reset->writes;
    std::move(at->writes.begin(), at->writes.end(), std::back_inserter(to));
    at = waiting_.erase(at);
  }
  return over;
}

VirtioMmio::Impl::Operation* VirtioMmio::Impl::find_begun(Work work) {
  const auto at = std::find_if(
      begun_.begin(), begun_.end(),
      [work](const Operation& begun) { return begun.work == work; });
  return at == begun_.end() ? nullptr : &*at;
}

bool VirtioMmio::Impl::may_begin(Work work) const {
  if (begun_.empty()) {
    return work == Work::kReset || !is_guests(work) || !paused_;
  }
  if (!held_.ok()) return work == Work::kPause || work == Work::kResume;
  if (work != Work::kReset && work != Work::kPause) return false;
  return std::all_of(begun_.begin(), begun_.end(), [](const Operation& begun) {
    return begun.work == Work::kStart || begun.work == Work::kResume;
  });
}

std::deque<VirtioMmio::Impl::Operation>::iterator VirtioMmio::Impl::find(
    std::deque<Operation>& operations, bool (*wanted)(Work)) {
  return std::find_if(
      operations.begin(), operations.end(),
      [wanted](const Operation& operation) { return wanted(operation.work); });
}

// None or one; `moot` gets the writes that a reset makes so.
VirtioMmio::Impl::Operations VirtioMmio::Impl::take_next(Callbacks& moot) {
  const auto is_pause = [](Work work) {
    return work == Work::kPause || work == Work::kResume;
  };
  auto next = find(waiting_, [](Work work) { return work == Work::kReset; });
  // A held reset may take for ever; only pauses do not wait for it.
  if (!held_.ok()) next = find(waiting_, is_pause);
  if (next == waiting_.end()) {
    next = find(waiting_, [](Work work) { return !is_guests(work); });
  }
  if (next == waiting_.end()) next = waiting_.begin();
  Operations taken;
  if (next == waiting_.end() || !may_begin(next->work)) return taken;
  taken.push_back(std::move(*next));
  waiting_.erase(next);
  if (taken.front().work != Work::kReset) return taken;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    if (!is_guests(at->work)) {
      ++at;
      continue;
    }
    std::move(at->writes.begin(), at->writes.end(), std::back_inserter(moot));
    at = waiting_.erase(at);
  }
  return taken;
}

void VirtioMmio::Impl::launch(Operation& operation) {
  bool running = false;
  TransportOperations* operations = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    running = registers_.running();
    operations = operations_;
  }
  const uint64_t serial = operation.serial;
  absl::Status at_once;
  switch (operation.work) {
    case Work::kPause: {
      const bool ends_start = held_.ok() && begun_.size() > 1;
      const bool stops = (running && !paused_) || ends_start;
      paused_ = true;
      if (stops && operations != nullptr) break;
      return answered(serial, held_);
    }
    case Work::kResume: {
      const bool starts = running && paused_;
      paused_ = false;
      if (starts && operations != nullptr) break;
      return answered(serial, absl::OkStatus());
    }
    case Work::kRefresh:
    case Work::kConfigChanged:
      if (options_.config_size == 0) return answered(serial, absl::OkStatus());
      break;
    default:
      break;
  }
  if (operations != nullptr) return ask(operation, *operations);
  // Nobody has anything of the guest's.
  const bool ok = operation.work == Work::kReset;
  answered(serial, ok ? absl::OkStatus()
                      : absl::FailedPreconditionError("no device is attached"));
}

void VirtioMmio::Impl::ask(Operation& operation,
                           TransportOperations& operations) {
  Completion answer = answer_to(operation);
  const MmioAction& action = operation.action;
  switch (operation.work) {
    case Work::kStart:
      return operations.start(accepted(), std::move(answer));
    case Work::kReset:
      return operations.reset(std::move(answer));
    case Work::kStartQueue:
      return operations.start_queue(action.queue, std::move(answer));
    case Work::kStopQueue:
      return operations.stop_queue(action.queue, std::move(answer));
    case Work::kWriteConfig: {
      const std::array<std::byte, 8> bytes = action.bytes;
      return operations.write_config(action.offset,
                                     std::span(bytes).first(action.size),
                                     std::move(answer));
    }
    case Work::kRefresh:
    case Work::kConfigChanged:
      return read_config(operation, operations);
    case Work::kPause:
      return operations.pause(std::move(answer));
    case Work::kResume:
      return operations.resume(std::move(answer));
  }
}

void VirtioMmio::Impl::read_config(Operation& operation,
                                   TransportOperations& operations) {
  fresh_config_ = std::make_shared<std::vector<std::byte>>(
      std::min(options_.config_size, mmio::kMaxConfig));
  Completion answer = [bytes = fresh_config_, answer = answer_to(operation)](
                          absl::Status status) mutable {
    answer(std::move(status));
  };
  operations.read_config(*fresh_config_, std::move(answer));
}

Completion VirtioMmio::Impl::answer_to(const Operation& operation) {
  return [weak = weak_from_this(),
          serial = operation.serial](absl::Status status) {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self != nullptr && !self->dead_) {
      self->answered(serial, std::move(status));
    }
  };
}

}  // namespace vhost
