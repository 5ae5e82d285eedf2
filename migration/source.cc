// SPDX-License-Identifier: Apache-2.0
#include "migration/source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {

MigrationSource::MigrationSource(EventLoop& loop, VhostContext& context,
                                 MigrationVmm& vmm, Options options)
    : impl_(std::make_shared<Impl>(loop, context, vmm, options)) {}

MigrationSource::~MigrationSource() { impl_->drop(); }

void MigrationSource::start(UniqueFd channel, Completion done) {
  impl_->start(std::move(channel), Impl::To::kHost, std::move(done));
}

void MigrationSource::save(UniqueFd file, Completion done) {
  impl_->start(std::move(file), Impl::To::kFile, std::move(done));
}

absl::Status MigrationSource::cancel() { return impl_->cancel(); }

void MigrationSource::take_back(Completion done) {
  impl_->take_back(std::move(done));
}

MigrationProgress MigrationSource::progress() const {
  return impl_->progress();
}

MigrationSource::Impl::Impl(EventLoop& loop, VhostContext& context,
                            MigrationVmm& vmm, const Options& options)
    : MigrationSide(loop),
      context_(context),
      vmm_(vmm),
      options_(options),
      board_(loop) {}

void MigrationSource::Impl::drop() {
  ++attempt_;
  close_sinks(absl::CancelledError("the migration was dropped"));
  limit_.reset();
  drain_.reset();
  channel_.reset();
  tracker_.reset();
  done_ = nullptr;
}

// ---------------------------------------------------------------------------
// Completions
// ---------------------------------------------------------------------------

bool MigrationSource::Impl::go_on() {
  --outstanding_;
  if (board_.phase() != Phase::kRollingBack) return true;
  go_back_if_possible();
  return false;
}

// ---------------------------------------------------------------------------
// S1: both sides say what they have
// ---------------------------------------------------------------------------

void MigrationSource::Impl::start(UniqueFd channel, To to, Completion done) {
  if (busy_) {
    return post(std::move(done),
                absl::FailedPreconditionError("a migration is under way"));
  }
  if (outcome_ == Outcome::kMoved || outcome_ == Outcome::kUnknown ||
      outcome_ == Outcome::kStuck) {
    return post(std::move(done),
                absl::FailedPreconditionError(
                    "the guest does not run here: take it back first"));
  }
  ++attempt_;
  busy_ = true;
  to_ = to;
  done_ = std::move(done);
  error_ = absl::OkStatus();
  outcome_ = Outcome::kNone;
  devices_.clear();
  channel_.reset();
  tracker_ = std::make_unique<DirtyTracker>(context_);
  hasher_.reset();
  outstanding_ = to_describe_ = to_save_ = 0;
  paused_ = false;
  commit_end_.reset();
  rounds_ = 0;
  bandwidth_ = 0;
  board_.begin();
  board_.enter(Phase::kHandshake);
  const absl::Status status = begin(std::move(channel));
  if (!status.ok()) return fail(status);
  if (to_ == To::kFile) return log_on();
  limit(options_.timeouts.handshake, "answer to the manifest");
}

absl::Status MigrationSource::Impl::begin(UniqueFd channel) {
  VHOST_RETURN_IF_ERROR(open_channel(std::move(channel)));
  if (context_.log().active()) {
    return absl::FailedPreconditionError("the dirty log is in use");
  }
  VHOST_RETURN_IF_ERROR(check_source(vmm_));
  for (MigrationDevice* device : vmm_.devices()) {
    devices_.emplace_back().device = device;
  }
  const auto blocks = tracker_->set_blocks(vmm_.ram());
  VHOST_RETURN_IF_ERROR(blocks.status());
  return send_manifest();
}

absl::Status MigrationSource::Impl::open_channel(UniqueFd channel) {
  const bool to_host = to_ == To::kHost;
  // Whoever is called may destroy this.
  const std::weak_ptr<Impl> weak = weak_from_this();
  Channel::Handler handler;
  handler.fill = [weak] {
    const std::shared_ptr<Impl> self = weak.lock();
    return self != nullptr && self->fill();
  };
  handler.record = [weak](const StreamRecord& record) {
    const std::shared_ptr<Impl> self = weak.lock();
    return self == nullptr ? absl::OkStatus() : self->take_record(record);
  };
  handler.sent = [weak] {
    if (const std::shared_ptr<Impl> self = weak.lock()) self->sent();
  };
  handler.failed = [weak](const absl::Status& why) {
    if (const std::shared_ptr<Impl> self = weak.lock()) self->fail(why);
  };
  auto opened =
      Channel::open(loop_, std::move(channel),
                    {.write = {.direction = StreamDirection::kToDestination,
                               .integrity = options_.integrity},
                     .read = StreamDirection::kToSource,
                     .reads = to_host,
                     .silence = options_.timeouts.silence},
                    std::move(handler));
  if (!opened.ok()) return opened.status();
  channel_ = *std::move(opened);
  channel_->set_bandwidth(options_.bandwidth);
  ram_ = std::make_unique<RamSender>(*tracker_, channel_->writer());
  return absl::OkStatus();
}

absl::Status MigrationSource::Impl::send_manifest() {
  Manifest manifest;
  manifest.integrity = options_.integrity;
  manifest.page_size = kLogPageSize;
  for (const auto& [id, block] : tracker_->blocks()) {
    manifest.blocks.push_back(describe(block));
  }
  manifest.devices = describe_source(vmm_.devices());
  for (size_t i = 0; i < devices_.size(); ++i) {
    devices_[i].manifest = manifest.devices[i];
  }
  const auto bytes = encode(manifest);
  VHOST_RETURN_IF_ERROR(annotate(bytes.status(), "manifest"));
  board_.update([this](MigrationProgress& p) {
    p.ram_size = p.remaining = tracker_->ram_size();
  });
  return channel_->writer().record(RecordType::kManifest, 0, *bytes);
}

absl::Status MigrationSource::Impl::take_record(const StreamRecord& record) {
  const Phase phase = board_.phase();
  switch (record.type) {
    case RecordType::kManifestAnswer: {
      if (phase != Phase::kHandshake) return unexpected(record);
      const auto answer = decode_manifest_answer(record.payload);
      VHOST_RETURN_IF_ERROR(annotate(answer.status(), "manifest answer"));
      VHOST_RETURN_IF_ERROR(annotate(refusal(answer->reasons), "destination"));
      log_on();
      return absl::OkStatus();
    }
    case RecordType::kReady:
      if (phase != Phase::kSwitchover) return unexpected(record);
      pause();
      return absl::OkStatus();
    case RecordType::kPrepared:
      if (phase != Phase::kPrepare) return unexpected(record);
      return commit();
    case RecordType::kResumed:
      if (phase != Phase::kCommitted) return unexpected(record);
      moved();
      return absl::OkStatus();
    case RecordType::kAbort:
      return annotate(decode_abort(record.payload), "destination");
    default:
      return unexpected(record);
  }
}

absl::Status MigrationSource::Impl::unexpected(
    const StreamRecord& record) const {
  return absl::DataLossError(absl::StrCat("destination: record ",
                                          to_string(record.type), " in phase ",
                                          to_string(board_.phase())));
}

// ---------------------------------------------------------------------------
// What goes out
// ---------------------------------------------------------------------------

bool MigrationSource::Impl::fill() {
  absl::StatusOr<bool> more = false;
  switch (board_.phase()) {
    case Phase::kPrecopy:
      more = fill_ram();
      break;
    case Phase::kTail:
      more = fill_tail();
      break;
    case Phase::kDevices:
      more = fill_inflight();
      break;
    default:
      break;
  }
  if (more.ok()) return *more;
  fail(more.status());
  return false;
}

void MigrationSource::Impl::sent() {
  report();
  for (Device& entry : devices_) {
    if (entry.sink != nullptr) entry.sink->room();
  }
  const bool all_out = channel_->bytes_sent() == channel_->writer().bytes();
  if (to_ == To::kFile && board_.phase() == Phase::kCommitted && all_out) {
    moved();
  }
}

void MigrationSource::Impl::report() {
  board_.update([this](MigrationProgress& p) {
    p.rounds = rounds_;
    p.ram_size = tracker_->ram_size();
    p.ram_moved = ram_->moved();
    p.zero_moved = ram_->zeros();
    p.remaining = tracker_->dirty();
    p.stream = channel_->bytes_sent();
    p.bandwidth = bandwidth_;
    p.predicted_downtime = predicted();
    p.state_bytes = 0;
    for (const Device& entry : devices_) {
      if (entry.sink != nullptr) p.state_bytes += entry.sink->taken();
    }
  });
}

}  // namespace vhost
