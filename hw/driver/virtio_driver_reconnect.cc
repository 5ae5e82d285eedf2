// SPDX-License-Identifier: Apache-2.0
//
// A back-end that goes away and comes back (VirtioDriver::Options::reconnect).
//
//   running --broken--> away --reconnected--> running
//                        |  --needs_reset--> restart --> running
//                        +----gave_up------> lost
//
// A restart is what a guest does about NEEDS_RESET: new rings, a reset, the
// same features, a start.  Where the back-end dies in the middle of it, the
// next one that comes gets a restart of its own.  Where a back-end was given up
// that may still run (it was silent, or made no sense), nothing is restarted:
// it may use what the old rings name, and the device is lost.

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr absl::string_view kOutcomeUnknown = "vhostdev/outcome-unknown";

absl::Status outcome_unknown_error(absl::string_view name) {
  absl::Status out = absl::AbortedError(
      absl::StrCat(name, ": device needs reset: outcome not known"));
  out.SetPayload(kOutcomeUnknown, absl::Cord());
  return out;
}

}  // namespace

bool outcome_unknown(const absl::Status& status) {
  return status.GetPayload(kOutcomeUnknown).has_value();
}

void VirtioDriver::Impl::go_away() {
  there_since.store(kAway);
  // What completed before shows now: nobody else wakes who sleeps.
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    queue->signal_call();
  }
}

bool VirtioDriver::Impl::away() const { return there_since.load() == kAway; }

void VirtioDriver::Impl::come_back() {
  restart_due = false;
  there_since.store(
      std::chrono::steady_clock::now().time_since_epoch().count());
  // Kicks and signals of the time between reached nobody.
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    queue->signal_kick_on_loop();
    queue->signal_call();
  }
}

// In each of these the VMM comes last: it may destroy the driver.

void VirtioDriver::Impl::reconnected() {
  // The start of a restart, which lost its back-end and found another.
  if (operation == kRestart) return;
  const bool running = dev->state() == DeviceState::kRunning;
  if (restart_due && !running) return restart();
  if (running) come_back();
  if (options.events != nullptr) options.events->reconnected();
}

void VirtioDriver::Impl::needs_reset(const absl::Status& why) {
  if (!still_used.ok()) {
    // What the old rings name would be used twice.
    device_status |= kStatusNeedsReset;
    there_since.store(0);
    lose(still_used);
  } else if ((device_status & kStatusDriverOk) != 0 && operation != "stop" &&
             operation != "reset") {
    restart_due = true;
    restart_again = operation == kRestart;
    restart();
  } else {
    lose(outcome_unknown_error(options.name));
  }
  if (options.events != nullptr) options.events->needs_reset(why);
}

void VirtioDriver::Impl::gave_up(const absl::Status& why) {
  restart_due = false;
  there_since.store(0);
  if (dev->state() == DeviceState::kBroken) {
    device_status |= kStatusNeedsReset;
    lose(why);
  }
  if (options.events != nullptr) options.events->gave_up(why);
}

// ---------------------------------------------------------------------------
// Restart
// ---------------------------------------------------------------------------

// Called again when what stood in its way is over: an operation (over()), a
// back-end that died (reconnected(), needs_reset()).
void VirtioDriver::Impl::restart() {
  if (!restart_due || !operation.empty() ||
      dev->state() != DeviceState::kReady) {
    return;
  }
  operation = kRestart;
  restart_again = false;
  const absl::Status why = outcome_unknown_error(options.name);
  for (const std::shared_ptr<DriverQueue>& queue : all_queues()) {
    const absl::Status replaced = queue->replace_ring(memory, why);
    if (!replaced.ok()) return finish_restart(replaced);
  }
  const uint64_t mine = ++restarts;
  dev->reset([this, mine](const absl::Status& status) {
    if (mine == restarts) start_again(status);
  });
}

void VirtioDriver::Impl::start_again(absl::Status status) {
  if (status.ok() && !dev->backend_features().contains(agreed.features)) {
    status = absl::FailedPreconditionError(
        "the device lacks features that were agreed on");
  }
  if (status.ok()) status = dev->ack_features(agreed.features, agreed.features);
  const size_t count = all_queues().size();
  for (uint32_t i = 0; status.ok() && i < count; ++i) {
    status =
        dev->set_queue_base(QueueIndex{i}, initial_base(RingFormat::kSplit));
  }
  if (!status.ok()) return finish_restart(status);
  dev->start([this, mine = restarts](const absl::Status& started) {
    if (mine == restarts) finish_restart(started);
  });
}

void VirtioDriver::Impl::finish_restart(const absl::Status& status) {
  operation = {};
  if (status.ok()) {
    come_back();
    if (options.events != nullptr) options.events->reconnected();
    return;
  }
  // The next back-end gets a restart, and may be there already.
  if (dev->state() == DeviceState::kBroken) return;
  if (restart_again) return restart();
  restart_due = false;
  there_since.store(0);
  device_status |= kStatusNeedsReset;
  const absl::Status why =
      annotate(status, absl::StrCat(options.name, ": ", kRestart));
  lose(why);
  if (options.events != nullptr) options.events->broken(why);
}

void VirtioDriver::Impl::over() {
  operation = {};
  if (!restart_due) return;
  context.loop().post([weak = std::weak_ptr(self)] {
    const std::shared_ptr<Impl*> impl = weak.lock();
    if (impl != nullptr) (*impl)->restart();
  });
}

// A stop or a reset takes the place of the restart that it came upon.
void VirtioDriver::Impl::drop_restart() {
  restart_due = false;
  in_restart = false;
  ++restarts;
}

void VirtioDriver::Impl::give_up() {
  device_status |= kStatusNeedsReset;
  drop_restart();
  if (operation == kRestart) over();
  there_since.store(0);
  if (options.reconnect.has_value()) dev->stop_reconnecting();
  dev->force_stop([](const absl::Status&) {});
}

// ---------------------------------------------------------------------------

MonotonicTime VirtioDriver::counts_from(MonotonicTime begin) const {
  const Impl& impl = *impl_;
  const int64_t since = impl.there_since.load();
  if (since != Impl::kAway) {
    return std::max(begin, MonotonicTime(Duration(since)));
  }
  // Where nobody turns the loop while this thread waits, waiting is in vain.
  const bool turned =
      !impl.context.loop().on_loop_thread() || impl.options.own_loop != nullptr;
  return turned ? std::max(begin, std::chrono::steady_clock::now()) : begin;
}

}  // namespace vhost
