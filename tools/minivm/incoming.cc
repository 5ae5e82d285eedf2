// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/incoming.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/migration_report.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

absl::StatusOr<std::unique_ptr<Incoming>> Incoming::create(
    VhostContext& context, const RunOptions& options, Hooks hooks) {
  std::unique_ptr<Incoming> out(new Incoming(context, std::move(hooks)));
  if (options.incoming.has_value()) {
    VHOST_RETURN_IF_ERROR(out->listen(*options.incoming));
    return out;
  }
  absl::StatusOr<UniqueFd> file = ctl::open_input(options.restore);
  if (!file.ok()) return annotate(file.status(), "restore");
  out->file_ = *std::move(file);
  return out;
}

Incoming::Incoming(VhostContext& context, Hooks hooks)
    : context_(context), hooks_(std::move(hooks)) {}

Incoming::~Incoming() = default;

absl::Status Incoming::listen(const ChannelAddress& address) {
  // Before the loop turns: a name may be looked up.
  const absl::StatusOr<ChannelAddress> number = resolve(address);
  if (!number.ok()) return annotate(number.status(), "incoming");
  auto listener = ChannelListener::listen(
      context_.loop(), *number,
      [this](UniqueFd channel) { accepted(std::move(channel)); });
  if (!listener.ok()) return annotate(listener.status(), "incoming");
  listener_ = *std::move(listener);
  return absl::OkStatus();
}

std::string Incoming::address() const {
  return listener_ == nullptr ? "" : to_string(listener_->address());
}

MigrationOutcome Incoming::outcome() const {
  if (busy_ || destination_ == nullptr) return MigrationOutcome::kNone;
  return destination_->progress().outcome;
}

ctl::Json Incoming::json() const {
  if (destination_ == nullptr) return nullptr;
  return migration_json(destination_->progress());
}

void Incoming::begin() {
  ready_ = true;
  if (early_.valid()) accepted(std::exchange(early_, UniqueFd()));
  if (!file_.valid()) return;
  const absl::Status prepared = prepare();
  if (!prepared.ok()) return hooks_.failed(prepared);
  destination_->restore(std::move(file_), then_over());
}

// [take]
absl::Status Incoming::prepare() {
  destination_ = nullptr;
  vmm_.reset();
  const absl::StatusOr<VmMigration::Parts> parts = hooks_.renew();
  if (!parts.ok()) return parts.status();
  vmm_.emplace(*parts, /*no_drain=*/false);
  vmm_->set_start([this] { return hooks_.start_guest(); });
  destination_ = std::make_unique<MigrationDestination>(
      context_.loop(), context_, *vmm_, MigrationDestination::Options());
  busy_ = true;
  return absl::OkStatus();
}

void Incoming::accepted(UniqueFd channel) {
  if (!ready_) {
    if (!early_.valid()) early_ = std::move(channel);
    return;
  }
  if (busy_ || arrived_) return;
  // Whoever moves a guest has it: a copy of which nobody knew is void.  One
  // that is here for good is not.
  if (outcome() == MigrationOutcome::kStuck) return;
  const absl::Status prepared = prepare();
  if (!prepared.ok()) return hooks_.failed(prepared);
  destination_->start(std::move(channel), then_over());
}
// [end]

Completion Incoming::then_over() {
  return [weak = std::weak_ptr(self_)](const absl::Status& status) {
    if (const auto self = weak.lock()) (*self)->over(status);
  };
}

// ORDER: the hooks come last, for they may destroy this.
void Incoming::over(const absl::Status& status) {
  busy_ = false;
  if (!status.ok()) {
    absl::string_view more;
    if (outcome() == MigrationOutcome::kUnknown) {
      more = " (the source may run the guest: take-over says that it does not)";
    } else if (outcome() == MigrationOutcome::kStuck) {
      more =
          " (the guest is here, and cannot be started: take-over tries again)";
    }
    return hooks_.failed(
        absl::Status(status.code(), absl::StrCat(status.message(), more)));
  }
  arrived_ = true;
  listener_ = nullptr;
  hooks_.arrived();
}

absl::Status Incoming::cancel() {
  listener_ = nullptr;
  early_.reset();
  return busy_ ? destination_->cancel() : absl::OkStatus();
}

void Incoming::take_over(Completion done) {
  if (busy_ || destination_ == nullptr) {
    return done(absl::FailedPreconditionError(
        busy_ ? "take-over: a guest is being taken"
              : "take-over: no guest came here"));
  }
  busy_ = true;
  destination_->take_over([weak = std::weak_ptr(self_), done = std::move(done)](
                              const absl::Status& status) mutable {
    const auto self = weak.lock();
    if (self == nullptr) return;
    done(annotate(status, "take-over"));
    (*self)->over(status);
  });
}

}  // namespace vhost::minivm
