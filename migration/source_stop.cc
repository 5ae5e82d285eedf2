// SPDX-License-Identifier: Apache-2.0
// S5 and S6: guest and devices stop, and the last of memory.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/source.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {

// ---------------------------------------------------------------------------
// S5
// ---------------------------------------------------------------------------

void MigrationSource::Impl::pause() {
  board_.enter(Phase::kPausing);
  limit(options_.timeouts.pause, "paused guest");
  pause_end_ = loop_.now() + options_.timeouts.pause;
  channel_->set_bandwidth(0);
  board_.guest_down();
  const bool drain =
      std::any_of(devices_.begin(), devices_.end(), [](const Device& entry) {
        return entry.device->dev().traits().base_after_stop ==
               BaseAfterStop::kMayBeUndrained;
      });
  vmm_.pause_guest(drain, after(&Impl::guest_paused));
}

void MigrationSource::Impl::guest_paused(absl::Status status) {
  // Also if it is to go on at once.
  paused_ = status.ok();
  if (!go_on()) return;
  if (!status.ok()) return fail(status);
  limit_.reset();
  drain_requests();
}

// A stop that comes upon requests may lose them, and with them the device: so
// they come to an end before, on devices that run.  Nothing has to be undone
// where they do not.
void MigrationSource::Impl::drain_requests() {
  std::vector<VhostDev*> devices;
  for (const Device& entry : devices_) devices.push_back(&entry.device->dev());
  drain_ = std::make_unique<RequestDrain>(loop_, std::move(devices));
  if (drain_->over()) return stop_devices();
  drain_->wait(pause_end_ - loop_.now(), then(&Impl::requests_drained));
}

void MigrationSource::Impl::requests_drained(absl::Status status) {
  if (!status.ok()) return fail(status);
  stop_devices();
}

// All at once: it takes as long as the slowest.
void MigrationSource::Impl::stop_devices() {
  drain_.reset();
  board_.enter(Phase::kStopping);
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    const VhostDev& dev = devices_[i].device->dev();
    devices_[i].to_start = dev.state() == DeviceState::kRunning ||
                           dev.state() == DeviceState::kStarting ||
                           is_reconnecting(dev);
    devices_[i].device->stop(after(&Impl::device_stopped, i));
  }
  if (go_on()) all_stopped();
}

void MigrationSource::Impl::device_stopped(size_t index, absl::Status status) {
  if (!go_on()) return;
  if (!status.ok()) {
    return fail(annotate(status, devices_[index].device->name()));
  }
  all_stopped();
}

void MigrationSource::Impl::all_stopped() {
  if (outstanding_ != 0 || board_.phase() != Phase::kStopping) return;
  const absl::Status status = harvest();
  if (!status.ok()) return fail(status);
  channel_->wake();
}

// ---------------------------------------------------------------------------
// S6
// ---------------------------------------------------------------------------

absl::Status MigrationSource::Impl::harvest() {
  board_.enter(Phase::kTail);
  for (Device& entry : devices_) {
    VhostDev& dev = entry.device->dev();
    const size_t queues = entry.manifest.queue_sizes.size();
    for (size_t i = 0; i < queues; ++i) {
      entry.bases.push_back(
          dev.queue_base(QueueIndex{static_cast<uint32_t>(i)}));
    }
  }
  VHOST_RETURN_IF_ERROR(refresh_ram());
  VHOST_RETURN_IF_ERROR(tracker_->sync());
  // Every device has stopped, and said so: nobody may have written since.
  if (const uint64_t late = tracker_->sync_log(); late != 0) {
    return absl::DataLossError(absl::StrCat(
        late, " pages were written after every device had stopped"));
  }
  report();
  return absl::OkStatus();
}

absl::StatusOr<bool> MigrationSource::Impl::fill_tail() {
  const absl::StatusOr<bool> more = ram_->fill();
  if (!more.ok() || *more) return more;
  if (options_.compare_ram) {
    if (hasher_ == nullptr) {
      hasher_ = std::make_unique<RamHasher>(tracker_->blocks());
    }
    if (const auto hashed = hasher_->step()) {
      VHOST_RETURN_IF_ERROR(channel_->writer().record(
          RecordType::kRamHash, hashed->block, encode(hashed->hash)));
    }
    if (!hasher_->over()) return true;
  }
  save_devices();
  // Inflight areas may be due at once.
  return board_.phase() == Phase::kDevices;
}

}  // namespace vhost
