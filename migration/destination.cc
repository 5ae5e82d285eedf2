// SPDX-License-Identifier: Apache-2.0
#include "migration/destination.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {

MigrationDestination::MigrationDestination(EventLoop& loop,
                                           VhostContext& context,
                                           MigrationVmm& vmm, Options options)
    : impl_(std::make_shared<Impl>(loop, context, vmm, options)) {}

MigrationDestination::~MigrationDestination() { impl_->drop(); }

void MigrationDestination::start(UniqueFd channel, Completion done) {
  impl_->start(std::move(channel), Impl::From::kHost, std::move(done));
}

void MigrationDestination::restore(UniqueFd file, Completion done) {
  impl_->start(std::move(file), Impl::From::kFile, std::move(done));
}

absl::Status MigrationDestination::cancel() { return impl_->cancel(); }

void MigrationDestination::take_over(Completion done) {
  impl_->take_over(std::move(done));
}

MigrationProgress MigrationDestination::progress() const {
  return impl_->progress();
}

MigrationDestination::Impl::Impl(EventLoop& loop, VhostContext& context,
                                 MigrationVmm& vmm, const Options& options)
    : MigrationSide(loop),
      context_(context),
      vmm_(vmm),
      options_(options),
      board_(loop) {}

void MigrationDestination::Impl::drop() {
  ++attempt_;
  close_sources(absl::CancelledError("the migration was dropped"));
  limit_.reset();
  stuck_.reset();
  channel_.reset();
  job_ = nullptr;
  done_ = nullptr;
}

// ---------------------------------------------------------------------------
// Completions
// ---------------------------------------------------------------------------

bool MigrationDestination::Impl::go_on() {
  --outstanding_;
  if (board_.phase() != Phase::kRollingBack) return true;
  give_up_if_possible();
  return false;
}

void MigrationDestination::Impl::report() {
  board_.update([this](MigrationProgress& p) {
    p.ram_size = p.state_bytes = 0;
    for (const auto& [id, block] : blocks_) p.ram_size += block.size;
    p.ram_moved = moved_;
    p.zero_moved = zeros_;
    p.stream = channel_->bytes_received();
    for (const Device& entry : devices_) {
      if (entry.state != nullptr) p.state_bytes += entry.state->given();
    }
  });
}

// ---------------------------------------------------------------------------
// D1: devices connect, and the manifests are compared
// ---------------------------------------------------------------------------

void MigrationDestination::Impl::start(UniqueFd channel, From from,
                                       Completion done) {
  if (busy_ || outcome_ == Outcome::kMoved || outcome_ == Outcome::kStuck) {
    return post(std::move(done),
                absl::FailedPreconditionError(busy_ ? "a migration is under way"
                                                    : "there is a guest"));
  }
  ++attempt_;
  busy_ = true;
  from_ = from;
  done_ = std::move(done);
  error_ = absl::OkStatus();
  outcome_ = Outcome::kNone;
  devices_.clear();
  channel_.reset();
  blocks_.clear();
  guest_.clear();
  job_ = nullptr;
  outstanding_ = 0;
  state_complete_ = configuring_ = prepared_ = committed_ = false;
  source_gave_up_ = false;
  moved_ = zeros_ = 0;
  board_.begin();
  board_.enter(Phase::kConnect);
  const absl::Status status = begin(std::move(channel));
  if (!status.ok()) return fail(status);
  limit(options_.timeouts.connect, "connection to every back-end");
  connect_devices();
}

absl::Status MigrationDestination::Impl::begin(UniqueFd channel) {
  VHOST_RETURN_IF_ERROR(open_channel(std::move(channel)));
  for (MigrationDevice* device : vmm_.devices()) {
    devices_.emplace_back().device = device;
  }
  return refresh_ram();
}

absl::Status MigrationDestination::Impl::open_channel(UniqueFd channel) {
  const std::weak_ptr<Impl> weak = weak_from_this();
  Channel::Handler handler;
  handler.record = [weak](const StreamRecord& record) {
    const std::shared_ptr<Impl> self = weak.lock();
    return self == nullptr ? absl::OkStatus() : self->take_record(record);
  };
  handler.external = [weak] {
    if (const std::shared_ptr<Impl> self = weak.lock()) self->external_ready();
  };
  handler.failed = [weak](const absl::Status& why) {
    if (const std::shared_ptr<Impl> self = weak.lock()) self->fail(why);
  };
  // Answers are few: they are always hashed.
  auto opened =
      Channel::open(loop_, std::move(channel),
                    {.write = {.direction = StreamDirection::kToSource},
                     .read = StreamDirection::kToDestination,
                     .writes = from_ == From::kHost,
                     .silence = options_.timeouts.silence},
                    std::move(handler));
  if (!opened.ok()) return opened.status();
  channel_ = *std::move(opened);
  channel_->set_reading(false);
  // Where it is not hashed, state goes from the channel to the back-end as it
  // comes, all but its length.
  channel_->reader().pass_through(RecordType::kBackendState, 4);
  return absl::OkStatus();
}

void MigrationDestination::Impl::connect_devices() {
  ++outstanding_;  // This loop.
  for (size_t i = 0; i < devices_.size(); ++i) {
    devices_[i].connecting = true;
    devices_[i].device->connect(after(&Impl::connected, i));
  }
  if (go_on()) all_connected();
}

void MigrationDestination::Impl::connected(size_t index, absl::Status status) {
  devices_[index].connecting = false;
  if (!go_on()) return;
  if (!status.ok()) {
    return fail(annotate(status, devices_[index].device->name()));
  }
  all_connected();
  configure_if_loaded();  // It was one that had to do without its state.
}

void MigrationDestination::Impl::all_connected() {
  if (outstanding_ != 0 || board_.phase() != Phase::kConnect) return;
  board_.enter(Phase::kHandshake);
  limit(options_.timeouts.handshake, "manifest");
  channel_->expect_bytes(true);
  channel_->set_reading(true);
}

absl::Status MigrationDestination::Impl::take_manifest(
    const StreamRecord& record) {
  const auto theirs = decode_manifest(record.payload);
  VHOST_RETURN_IF_ERROR(annotate(theirs.status(), "manifest"));
  std::vector<std::string> reasons = add_missing_ram(*theirs);
  VHOST_RETURN_IF_ERROR(refresh_ram());
  Manifest ours;
  ours.integrity = options_.integrity;
  ours.page_size = kLogPageSize;
  for (const auto& [id, block] : blocks_) {
    ours.blocks.push_back(describe(block));
  }
  ours.devices = describe_destination(vmm_.devices(), *theirs);
  const std::vector<std::string> others = differences(*theirs, ours);
  reasons.insert(reasons.end(), others.begin(), others.end());
  const ManifestAnswer reply = {std::move(reasons)};
  if (from_ == From::kHost) {
    VHOST_RETURN_IF_ERROR(channel_->writer().record(RecordType::kManifestAnswer,
                                                    0, encode(reply)));
    channel_->wake();
  }
  VHOST_RETURN_IF_ERROR(refusal(reply.reasons));
  for (size_t i = 0; i < devices_.size(); ++i) {
    devices_[i].manifest = ours.devices[i];
    // There is one: the manifests do not differ.
    const DeviceManifest* device = find_device(*theirs, i);
    if (device != nullptr) devices_[i].layout = device->inflight;
  }
  limit_.reset();
  board_.enter(Phase::kPrecopy);
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------
// What comes
// ---------------------------------------------------------------------------

// Which records a phase has; what is not named here never comes.
bool MigrationDestination::Impl::may_come(RecordType type) const {
  const Phase phase = board_.phase();
  switch (type) {
    case RecordType::kManifest:
      return phase == Phase::kHandshake;
    case RecordType::kRamBlocks:
    case RecordType::kRamPages:
    case RecordType::kRamZeroPages:
    case RecordType::kRoundEnd:
      return phase == Phase::kPrecopy || phase == Phase::kSwitchover;
    case RecordType::kSwitchover:
      return phase == Phase::kPrecopy;
    case RecordType::kRamHash:
      return phase == Phase::kSwitchover;
    case RecordType::kDeviceCore:
    case RecordType::kDeviceConfig:
    case RecordType::kInflight:
    case RecordType::kBackendState:
    case RecordType::kBackendStateEnd:
    case RecordType::kGuest:
    case RecordType::kStateEnd:
      return phase == Phase::kSwitchover || phase == Phase::kDevices;
    case RecordType::kCommit:
      return phase == Phase::kPrepare && prepared_ && !committed_;
    case RecordType::kEnd:
      return committed_;
    case RecordType::kAbort:
      return true;
    default:
      return false;
  }
}

absl::Status MigrationDestination::Impl::take_record(
    const StreamRecord& record) {
  if (!may_come(record.type)) {
    return absl::DataLossError(
        absl::StrCat("source: record ", to_string(record.type), " in phase ",
                     to_string(board_.phase())));
  }
  switch (record.type) {
    case RecordType::kManifest:
      return take_manifest(record);
    case RecordType::kRamBlocks:
      return take_ram_blocks(record);
    case RecordType::kRamPages:
      return take_pages(record);
    case RecordType::kRamZeroPages:
      return take_zeros(record);
    case RecordType::kRamHash:
      return take_hash(record);
    case RecordType::kRoundEnd:
      return take_round_end(record);
    default:
      return take_other(record);
  }
}

absl::Status MigrationDestination::Impl::take_other(
    const StreamRecord& record) {
  switch (record.type) {
    case RecordType::kSwitchover:
      return take_switchover();
    case RecordType::kCommit:
      return take_commit();
    case RecordType::kEnd:
      if (from_ == From::kFile) start_devices();
      return absl::OkStatus();
    case RecordType::kAbort:
      source_gave_up_ = true;
      return annotate(decode_abort(record.payload), "source");
    default:
      break;
  }
  if (board_.phase() == Phase::kSwitchover) {
    board_.enter(Phase::kDevices);
    board_.guest_down();
    limit(options_.timeouts.state, "end of all state");
  }
  if (record.type == RecordType::kGuest) return take_guest(record);
  if (record.type == RecordType::kStateEnd) return take_state_end();
  return take_device_record(record);
}

absl::Status MigrationDestination::Impl::answer(RecordType type) {
  if (from_ == From::kFile) return absl::OkStatus();
  VHOST_RETURN_IF_ERROR(channel_->writer().record(type, 0, {}));
  channel_->wake();
  return absl::OkStatus();
}

}  // namespace vhost
