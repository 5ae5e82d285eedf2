// SPDX-License-Identifier: Apache-2.0
// D3 to D7: devices, back-ends and the VMM take over what the others knew.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/destination.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

using State = MigrationDevice::State;

// What came of an inflight area, as one that a back-end can be given: nobody
// can resize it.
absl::StatusOr<InflightArea> make_area(const InflightLayout& layout,
                                       std::span<const std::byte> bytes) {
  UniqueFd fd(::memfd_create("inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return errno_status(errno, "inflight area: memfd_create");
  for (size_t at = 0; at < bytes.size();) {
    const auto rest = bytes.subspan(at);
    const ssize_t out = ::write(fd.get(), rest.data(), rest.size());
    if (out < 0 && errno == EINTR) continue;
    if (out <= 0) return errno_status(errno, "inflight area: write");
    at += static_cast<size_t>(out);
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return errno_status(errno, "inflight area: F_ADD_SEALS");
  }
  return InflightArea{.fd = std::make_shared<const UniqueFd>(std::move(fd)),
                      .mmap_size = layout.size,
                      .num_queues = layout.queues,
                      .queue_size = layout.queue_size};
}

bool runs(const DeviceCore& core) {
  return (core.status & kStatusDriverOk) != 0 &&
         (core.status & (kStatusNeedsReset | kStatusFailed)) == 0;
}

}  // namespace

// ---------------------------------------------------------------------------
// Records of a device
// ---------------------------------------------------------------------------

absl::StatusOr<size_t> MigrationDestination::Impl::device_of(
    const StreamRecord& record) const {
  if (record.id < devices_.size()) return size_t{record.id};
  return absl::DataLossError(
      absl::StrCat(to_string(record.type), ": there is no device ", record.id));
}

absl::Status MigrationDestination::Impl::take_device_record(
    const StreamRecord& record) {
  const absl::StatusOr<size_t> index = device_of(record);
  VHOST_RETURN_IF_ERROR(index.status());
  Device& entry = devices_[*index];
  absl::Status status;
  switch (record.type) {
    case RecordType::kDeviceCore:
      status = take_core(entry, record);
      break;
    case RecordType::kDeviceConfig:
      status = take_config(entry, record);
      break;
    case RecordType::kInflight:
      status = take_inflight(entry, record);
      break;
    default:
      status = take_state(*index, record);
      break;
  }
  return annotate(status, entry.device->name());
}

absl::Status MigrationDestination::Impl::take_core(Device& entry,
                                                   const StreamRecord& record) {
  if (entry.core.has_value()) return absl::DataLossError("a second core");
  auto core = decode_device_core(record.payload, entry.manifest);
  VHOST_RETURN_IF_ERROR(core.status());
  if (!core->features.has(kFeatureAccessPlatform)) {
    VHOST_RETURN_IF_ERROR(check_rings(*core, blocks_));
  }
  entry.core = *std::move(core);
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_config(
    Device& entry, const StreamRecord& record) {
  if (entry.has_config) return absl::DataLossError("a second configuration");
  const auto bytes = decode_device_config(record.payload, entry.manifest);
  VHOST_RETURN_IF_ERROR(bytes.status());
  entry.config.assign(bytes->begin(), bytes->end());
  entry.has_config = true;
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_inflight(
    Device& entry, const StreamRecord& record) {
  if (!entry.layout.has_value()) {
    return absl::DataLossError("an inflight area that was not announced");
  }
  if (entry.layout->size > kMaxInflightArea) {
    return absl::ResourceExhaustedError(
        absl::StrCat("an inflight area of ", entry.layout->size, " bytes"));
  }
  if (!entry.inflight.has_value()) entry.inflight.emplace(*entry.layout);
  return entry.inflight->add(record.payload);
}

absl::Status MigrationDestination::Impl::take_state(
    size_t index, const StreamRecord& record) {
  Device& entry = devices_[index];
  if (entry.state == nullptr && !entry.discards) {
    VHOST_RETURN_IF_ERROR(begin_load(index));
  }
  if (entry.discards) {
    if (record.external != 0) channel_->skip_external();
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(entry.state->add(record));
  if (entry.state->full()) hold_up(index);
  report();
  return absl::OkStatus();
}

// Until its back-end has taken some of it, nobody gets anything.
void MigrationDestination::Impl::hold_up(size_t index) {
  channel_->set_reading(false);
  const std::weak_ptr<Impl> weak = weak_from_this();
  devices_[index].state->on_room([weak] {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self != nullptr) self->read_if_wanted();
  });
  stuck_ =
      loop_.timer(loop_.now() + options_.timeouts.state / 2, [weak, index] {
        const std::shared_ptr<Impl> self = weak.lock();
        if (self != nullptr) self->give_up_state(index);
      });
}

void MigrationDestination::Impl::give_up_state(size_t index) {
  Device& entry = devices_[index];
  if (!entry.loading || entry.stuck) return;
  entry.stuck = true;
  entry.device->dev().abandon_state();
}

absl::Status MigrationDestination::Impl::begin_load(size_t index) {
  Device& entry = devices_[index];
  VhostDev& dev = entry.device->dev();
  // Unasked-for it is the source's optional one.
  if (entry.device->state() == State::kNone || !dev.traits().has_device_state) {
    if (entry.device->state() == State::kNeeded) {
      return absl::UnimplementedError("the back-end takes no state");
    }
    entry.discards = true;
    return absl::OkStatus();
  }
  entry.state = make_source();
  entry.loading = true;
  // Longer than that of hold_up: others may be held up as long as that.
  const Duration patience = options_.timeouts.state / 4 * 3;
  dev.load_state(*entry.state,
                 {.most_bytes = options_.most_state,
                  .idle_timeout = patience,
                  .check_timeout = patience},
                 [source = entry.state, done = after(&Impl::loaded, index)](
                     absl::Status status) mutable { done(std::move(status)); });
  return absl::OkStatus();
}

std::shared_ptr<StreamStateSource> MigrationDestination::Impl::make_source() {
  auto source = std::make_shared<StreamStateSource>(loop_);
  Channel& channel = *channel_;
  source->splice_from(channel.fd(), channel.reader(),
                      [&channel] { channel.watch_external(); });
  return source;
}

// The channel has more of the one chunk that is left in it.
void MigrationDestination::Impl::external_ready() {
  for (Device& entry : devices_) {
    const bool waits = entry.state != nullptr && entry.state->in_channel();
    if (waits) entry.state->channel_ready();
  }
}

void MigrationDestination::Impl::close_sources(const absl::Status& why) {
  for (Device& entry : devices_) {
    if (entry.state != nullptr) entry.state->fail(why);
    if (entry.loading) entry.device->dev().abandon_state();
  }
}

void MigrationDestination::Impl::loaded(size_t index, absl::Status status) {
  Device& entry = devices_[index];
  entry.loading = false;
  if (!go_on()) return;
  report();
  if (!status.ok() && entry.stuck) {
    status =
        absl::DeadlineExceededError("its back-end takes none of its state");
  }
  if (!status.ok() && entry.device->state() != State::kOptional) {
    return fail(annotate(status, entry.device->name()));
  }
  if (status.ok()) return configure_if_loaded();
  // The guest does without.
  entry.discards = true;
  if (entry.state->in_channel()) channel_->skip_external();
  read_if_wanted();
  entry.connecting = true;
  entry.device->connect(after(&Impl::connected, index));
}

absl::Status MigrationDestination::Impl::take_guest(
    const StreamRecord& record) {
  if (record.payload.size() > kMaxGuestRecord - guest_.size()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "guest: a record of more than ", kMaxGuestRecord, " bytes"));
  }
  guest_.append(reinterpret_cast<const char*>(record.payload.data()),
                record.payload.size());
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_state_end() {
  for (Device& entry : devices_) {
    VHOST_RETURN_IF_ERROR(
        annotate(check_complete(entry), entry.device->name()));
    // An optional one that the source had to give up.
    if (entry.loading && !entry.state->ended()) {
      entry.device->dev().abandon_state();
    }
  }
  state_complete_ = true;
  board_.enter(Phase::kPrepare);
  report();
  if (from_ == From::kFile) channel_->set_reading(false);
  configure_if_loaded();
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::check_complete(
    const Device& entry) const {
  if (!entry.core.has_value()) return absl::DataLossError("no core came");
  if (entry.manifest.config_length != 0 && !entry.has_config) {
    return absl::DataLossError("no configuration came");
  }
  if (entry.layout.has_value() &&
      (!entry.inflight.has_value() || !entry.inflight->complete())) {
    return absl::DataLossError("no whole inflight area came");
  }
  if (entry.device->state() == State::kNeeded &&
      (entry.state == nullptr || !entry.state->ended())) {
    return absl::DataLossError("no whole state of its back-end came");
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// D5 to D7: the configuration, and what needs no back-end
// ---------------------------------------------------------------------------

// ORDER: a back-end is asked nothing before it has its state.
void MigrationDestination::Impl::configure_if_loaded() {
  if (!state_complete_ || configuring_ || outstanding_ != 0 ||
      board_.phase() != Phase::kPrepare) {
    return;
  }
  configuring_ = true;
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    Device& entry = devices_[i];
    if (!entry.has_config) continue;
    entry.own_config.resize(entry.config.size());
    entry.device->dev().get_config(0, entry.own_config,
                                   after(&Impl::config_read, i));
  }
  if (go_on()) prepare_if_configured();
}

void MigrationDestination::Impl::config_read(size_t index,
                                             absl::Status status) {
  Device& entry = devices_[index];
  if (!go_on()) return;
  if (!status.ok()) return fail(annotate(status, entry.device->name()));
  if (entry.config == entry.own_config) return prepare_if_configured();
  entry.device->dev().set_config(0, entry.config, ConfigWriter::kMigration,
                                 after(&Impl::config_written, index));
}

// What a back-end does not take (most take only what a driver may write) is
// told to the guest, as any change of it.
void MigrationDestination::Impl::config_written(size_t index,
                                                absl::Status status) {
  Device& entry = devices_[index];
  if (!go_on()) return;
  const bool refused = absl::IsAborted(status) ||
                       absl::IsUnimplemented(status) ||
                       absl::IsInvalidArgument(status);
  if (!status.ok() && !refused) {
    return fail(annotate(status, entry.device->name()));
  }
  entry.config_differs = refused;
  prepare_if_configured();
}

void MigrationDestination::Impl::prepare_if_configured() {
  if (outstanding_ != 0 || board_.phase() != Phase::kPrepare) return;
  absl::Status status = load_all();
  if (board_.phase() != Phase::kPrepare) return;
  if (status.ok()) status = answer(RecordType::kPrepared);
  if (!status.ok()) return fail(status);
  // ORDER: from here on it is the source that decides.
  prepared_ = true;
  limit_.reset();
  if (from_ == From::kHost) limit(options_.timeouts.prepare, "commit");
  read_if_wanted();
}

absl::Status MigrationDestination::Impl::load_all() {
  for (Device& entry : devices_) {
    VHOST_RETURN_IF_ERROR(
        annotate(entry.device->load_core(*entry.core), entry.device->name()));
  }
  VHOST_RETURN_IF_ERROR(annotate(vmm_.load_guest(guest_), "guest"));
  for (Device& entry : devices_) {
    VHOST_RETURN_IF_ERROR(annotate(place(entry), entry.device->name()));
  }
  return absl::OkStatus();
}

// Where the rings stand, and what is in flight: told at the start.
absl::Status MigrationDestination::Impl::place(Device& entry) {
  VhostDev& dev = entry.device->dev();
  entry.to_start = runs(*entry.core);
  if (entry.to_start) {
    for (size_t i = 0; i < entry.core->queues.size(); ++i) {
      const DeviceCore::Queue& queue = entry.core->queues[i];
      const QueueIndex vq{static_cast<uint32_t>(i)};
      if (!queue.ready || !entry.device->serves(vq)) continue;
      VHOST_RETURN_IF_ERROR(dev.set_queue_base(vq, queue.base));
    }
  }
  if (!entry.inflight.has_value()) return absl::OkStatus();
  absl::StatusOr<InflightArea> area =
      make_area(*entry.layout, entry.inflight->bytes());
  if (!area.ok()) return area.status();
  return dev.set_inflight(*std::move(area));
}

}  // namespace vhost
