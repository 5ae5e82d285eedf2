// SPDX-License-Identifier: Apache-2.0
// S2 to S4: the log on, memory while the guest runs, and when to stop that.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/source.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Less than that says little of a bandwidth.
constexpr uint64_t kLeastMeasured = 1 << 20;
// What is assumed of a channel that was not measured: bytes per second.
constexpr uint64_t kAssumedBandwidth = 100 << 20;

double seconds(Duration time) {
  return std::chrono::duration<double>(time).count();
}

uint64_t per_second(uint64_t bytes, Duration time) {
  const double s = std::max(seconds(time), 1e-6);
  return static_cast<uint64_t>(static_cast<double>(bytes) / s);
}

std::string megabytes(uint64_t bytes) {
  return absl::StrCat(bytes >> 20, " MiB");
}

}  // namespace

void MigrationSource::Impl::log_on() {
  board_.enter(Phase::kLogOn);
  limit(options_.timeouts.log, "acknowledged dirty log");
  tracker_->enable(vmm_.dirty_providers(), then(&Impl::logged));
}

void MigrationSource::Impl::logged(absl::Status status) {
  if (board_.phase() != Phase::kLogOn) return;
  if (!status.ok()) return fail(status);
  limit_.reset();
  board_.enter(Phase::kPrecopy);
  rounds_ = 1;
  round_began_ = loop_.now();
  sent_before_ = channel_->bytes_sent();
  moved_before_ = 0;
  told_before_ = tracker_->told();
  channel_->wake();
}

absl::StatusOr<bool> MigrationSource::Impl::fill_ram() {
  const absl::StatusOr<bool> more = ram_->fill();
  if (!more.ok() || *more) return more;
  VHOST_RETURN_IF_ERROR(round_over());
  return board_.phase() == Phase::kPrecopy;
}

// What was dirty when the round began is sent.  Rounds go on until the rest
// would not take long.
absl::Status MigrationSource::Impl::round_over() {
  const uint64_t moved = ram_->moved() - moved_before_;
  VHOST_RETURN_IF_ERROR(tracker_->sync());
  VHOST_RETURN_IF_ERROR(refresh_ram());
  measure();
  const RoundEnd end = {.round = rounds_ - 1,
                        .sent_bytes = moved,
                        .dirty_bytes = tracker_->dirty()};
  VHOST_RETURN_IF_ERROR(
      channel_->writer().record(RecordType::kRoundEnd, 0, encode(end)));
  report();
  if (predicted() <= options_.downtime) {
    switchover();
    return absl::OkStatus();
  }
  if (rounds_ >= options_.max_rounds) {
    uint64_t rate = 0;
    for (const auto& p : board_.snapshot().providers) rate += p.dirty_rate;
    return absl::AbortedError(
        absl::StrCat("does not converge: after ", rounds_, " rounds ",
                     megabytes(tracker_->dirty()),
                     " are left, the guest writes ", megabytes(rate),
                     "/s, the channel takes ", megabytes(bandwidth_), "/s"));
  }
  ++rounds_;
  round_began_ = loop_.now();
  sent_before_ = channel_->bytes_sent();
  moved_before_ = ram_->moved();
  told_before_ = tracker_->told();
  return absl::OkStatus();
}

// Memory that the guest got since the last time is moved too.
absl::Status MigrationSource::Impl::refresh_ram() {
  const auto added = tracker_->set_blocks(vmm_.ram());
  if (!added.ok()) return added.status();
  if (added->empty()) return absl::OkStatus();
  const auto bytes = encode(std::span<const RamBlock>(*added));
  VHOST_RETURN_IF_ERROR(annotate(bytes.status(), "ram blocks"));
  return channel_->writer().record(RecordType::kRamBlocks, 0, *bytes);
}

void MigrationSource::Impl::measure() {
  const Duration time = loop_.now() - round_began_;
  const uint64_t sent = channel_->bytes_sent() - sent_before_;
  if (sent >= kLeastMeasured) bandwidth_ = per_second(sent, time);
  std::vector<MigrationProgress::Provider> providers;
  const std::vector<DirtyTracker::Told> told = tracker_->told();
  for (size_t i = 0; i < told.size(); ++i) {
    const uint64_t fresh = told[i].bytes - told_before_[i].bytes;
    providers.push_back({.name = told[i].name,
                         .dirty = told[i].bytes,
                         .dirty_rate = per_second(fresh, time)});
  }
  board_.update([&](MigrationProgress& p) { p.providers = providers; });
}

Duration MigrationSource::Impl::predicted() const {
  uint64_t bandwidth = bandwidth_ != 0 ? bandwidth_ : kAssumedBandwidth;
  const double s = static_cast<double>(tracker_->dirty()) /
                   static_cast<double>(std::max<uint64_t>(bandwidth, 1));
  // Not beyond what a Duration can say.
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(s, 1e9)));
}

void MigrationSource::Impl::switchover() {
  // What cannot be stopped is found before the guest is.
  for (const Device& entry : devices_) {
    const VhostDev& dev = entry.device->dev();
    if (dev.state() != DeviceState::kBroken) continue;
    return fail(absl::UnavailableError(absl::StrCat(
        entry.device->name(),
        ": its back-end is lost: ", dev.broken_status().message())));
  }
  board_.enter(Phase::kSwitchover);
  const absl::Status status =
      channel_->writer().record(RecordType::kSwitchover, 0, {});
  if (!status.ok()) return fail(status);
  if (to_ == To::kFile) return pause();
  limit(options_.timeouts.switchover, "readiness of the destination");
}

}  // namespace vhost
