// SPDX-License-Identifier: Apache-2.0
// S7: what devices, back-ends and the VMM know.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/source.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Bytes of a piece of an inflight area, or of the VMM's record.
constexpr size_t kPiece = 256 << 10;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

// All devices at once.  What each has goes out core, configuration, inflight
// area; then the states of all of them, mixed.
void MigrationSource::Impl::save_devices() {
  board_.enter(Phase::kDevices);
  limit(options_.timeouts.state, "state of every device");
  to_describe_ = devices_.size();
  to_save_ = devices_.size() + 1;
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    save_device(i);
    if (board_.phase() != Phase::kDevices) break;
  }
  if (go_on()) device_saved();
}

void MigrationSource::Impl::save_device(size_t index) {
  Device& entry = devices_[index];
  const auto number = static_cast<uint32_t>(index);
  const absl::StatusOr<DeviceCore> core = core_of(entry);
  absl::Status status = core.status();
  if (status.ok()) {
    status = channel_->writer().record(RecordType::kDeviceCore, number,
                                       encode(*core));
  }
  if (!status.ok()) return fail(annotate(status, entry.device->name()));
  entry.config.resize(entry.manifest.config_length);
  if (entry.config.empty()) return config_read(index, absl::OkStatus());
  entry.device->dev().get_config(0, entry.config,
                                 after(&Impl::config_read, index));
}

absl::StatusOr<DeviceCore> MigrationSource::Impl::core_of(Device& entry) {
  MigrationDevice& device = *entry.device;
  absl::StatusOr<DeviceCore> core = device.save_core();
  if (!core.ok()) return core;
  const bool translated = core->features.has(kFeatureAccessPlatform);
  for (size_t i = 0; i < core->queues.size(); ++i) {
    DeviceCore::Queue& queue = core->queues[i];
    const QueueIndex vq{static_cast<uint32_t>(i)};
    if (!queue.ready || !device.serves(vq)) continue;
    queue.base = device.dev().queue_base(vq);
    if (core->format != RingFormat::kSplit) continue;
    if (translated) {
      queue.used_idx = static_cast<uint16_t>(to_int(queue.base));
      continue;
    }
    const auto used = used_index_of(queue, tracker_->blocks());
    VHOST_RETURN_IF_ERROR(annotate(used.status(), absl::StrCat("vq ", i)));
    queue.used_idx = *used;
  }
  // What the other end would refuse is known here earlier.
  VHOST_RETURN_IF_ERROR(check_device_core(*core, device.describe()));
  if (!translated) {
    VHOST_RETURN_IF_ERROR(check_rings(*core, tracker_->blocks()));
  }
  return core;
}

void MigrationSource::Impl::config_read(size_t index, absl::Status status) {
  Device& entry = devices_[index];
  if (!entry.config.empty() && !go_on()) return;
  if (board_.phase() != Phase::kDevices) return;
  if (status.ok() && !entry.config.empty()) {
    status = channel_->writer().record(
        RecordType::kDeviceConfig, static_cast<uint32_t>(index), entry.config);
  }
  if (!status.ok()) return fail(annotate(status, entry.device->name()));
  // As told in the manifest; one that came to be meanwhile had nothing to hold
  // then, and the core says what is in flight.
  entry.inflight_due = entry.manifest.inflight.has_value();
  if (!entry.inflight_due) --to_describe_;
  save_states_if_due();
  channel_->wake();
}

absl::StatusOr<bool> MigrationSource::Impl::fill_inflight() {
  for (size_t i = 0; i < devices_.size(); ++i) {
    Device& entry = devices_[i];
    if (!entry.inflight_due) continue;
    VHOST_RETURN_IF_ERROR(
        annotate(append_inflight(entry, static_cast<uint32_t>(i)),
                 entry.device->name()));
    if (!entry.inflight_due) --to_describe_;
    save_states_if_due();
    return board_.phase() == Phase::kDevices;
  }
  return false;
}

// The area is another process's, which may cut it off: it is read, not mapped.
absl::Status MigrationSource::Impl::append_inflight(Device& entry,
                                                    uint32_t number) {
  const InflightArea& area = entry.device->dev().inflight();
  const InflightLayout& layout = *entry.manifest.inflight;
  if (area.fd == nullptr || area.mmap_size != layout.size) {
    return absl::FailedPreconditionError(
        "the inflight area is another one than before");
  }
  const uint64_t size =
      std::min<uint64_t>(kPiece, layout.size - entry.inflight_at);
  std::vector<std::byte> bytes(size);
  const ssize_t got =
      ::pread(area.fd->get(), bytes.data(), bytes.size(),
              static_cast<off_t>(area.mmap_offset + entry.inflight_at));
  if (got < 0) return errno_status(errno, "inflight area: pread");
  if (static_cast<uint64_t>(got) != size) {
    return absl::DataLossError(
        absl::StrCat("the inflight area ends after ",
                     entry.inflight_at + static_cast<uint64_t>(got), " of ",
                     layout.size, " bytes"));
  }
  VHOST_RETURN_IF_ERROR(channel_->writer().record(
      RecordType::kInflight, number,
      encode(InflightPiece{layout, entry.inflight_at, bytes})));
  entry.inflight_at += size;
  entry.inflight_due = entry.inflight_at != layout.size;
  return absl::OkStatus();
}

// ORDER: a chunk of state may be spliced, and no record can come between.
void MigrationSource::Impl::save_states_if_due() {
  if (to_describe_ != 0) return;
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    save_state(i);
    if (board_.phase() != Phase::kDevices) break;
  }
  go_on();
}

void MigrationSource::Impl::save_state(size_t index) {
  Device& entry = devices_[index];
  VhostDev& dev = entry.device->dev();
  if (entry.device->state() == MigrationDevice::State::kNone ||
      !dev.traits().has_device_state) {
    return device_saved();
  }
  entry.sink = make_sink(index);
  entry.saving = true;
  // Longer than the destination lets one hold up all others.
  const Duration patience = options_.timeouts.state / 4 * 3;
  dev.save_state(*entry.sink,
                 {.most_bytes = options_.most_state,
                  .idle_timeout = patience,
                  .check_timeout = patience},
                 [sink = entry.sink, done = after(&Impl::state_saved, index)](
                     absl::Status status) mutable { done(std::move(status)); });
}

std::shared_ptr<StreamStateSink> MigrationSource::Impl::make_sink(
    size_t index) {
  auto sink = std::make_shared<StreamStateSink>(loop_, channel_->writer(),
                                                static_cast<uint32_t>(index));
  Channel& channel = *channel_;
  sink->on_append([&channel] { channel.wake(); });
  sink->splice_to(channel.fd(), [&channel] { return channel.flush(); });
  return sink;
}

void MigrationSource::Impl::close_sinks(const absl::Status& why) {
  for (Device& entry : devices_) {
    if (entry.sink != nullptr) entry.sink->fail(why);
    if (entry.saving) entry.device->dev().abandon_state();
  }
}

void MigrationSource::Impl::state_saved(size_t index, absl::Status status) {
  Device& entry = devices_[index];
  entry.saving = false;
  if (!go_on()) return;
  if (!status.ok() &&
      entry.device->state() != MigrationDevice::State::kOptional) {
    return fail(annotate(status, entry.device->name()));
  }
  if (!status.ok()) entry.sink->give_up();
  device_saved();
}

void MigrationSource::Impl::device_saved() {
  if (board_.phase() != Phase::kDevices || --to_save_ != 0) return;
  absl::Status status = save_guest();
  if (status.ok() && to_ == To::kFile) status = commit();
  if (!status.ok()) return fail(status);
  channel_->wake();
}

absl::Status MigrationSource::Impl::save_guest() {
  const absl::StatusOr<std::string> guest = vmm_.save_guest();
  if (!guest.ok()) return annotate(guest.status(), "guest");
  if (guest->size() > kMaxGuestRecord) {
    return absl::ResourceExhaustedError(
        absl::StrCat("guest: a record of ", guest->size(), " bytes"));
  }
  StreamWriter& writer = channel_->writer();
  const std::span<const std::byte> bytes = bytes_of(*guest);
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    VHOST_RETURN_IF_ERROR(
        writer.record(RecordType::kGuest, 0,
                      bytes.subspan(at, std::min(kPiece, bytes.size() - at))));
  }
  VHOST_RETURN_IF_ERROR(writer.state_end());
  report();
  board_.enter(Phase::kPrepare);
  limit(options_.timeouts.prepare, "word that the destination is prepared");
  return absl::OkStatus();
}

}  // namespace vhost
