// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/vm.h"

#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/device_tree.h"
#include "tools/minivm/driver_guest.h"
#include "tools/minivm/files.h"
#include "tools/minivm/kvm_platform.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr Duration kProgressInterval = std::chrono::milliseconds(500);
constexpr Duration kNoProgress = std::chrono::seconds(60);

// Grows whenever the guest gets on.
uint64_t progress_of(const WorkloadReport& report) {
  return report.reads + report.writes + report.failed_requests +
         report.in_doubt + report.frames_sent;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vm>> Vm::create(EventLoop& loop,
                                               const RunOptions& options) {
  std::unique_ptr<Vm> out(new Vm(loop, options));
  VHOST_RETURN_IF_ERROR(out->build());
  return out;
}

Vm::Vm(EventLoop& loop, const RunOptions& options)
    : loop_(loop),
      options_(options),
      context_(loop, address_space_),
      memory_(address_space_, context_, options.hugepages) {}

Vm::~Vm() {
  control_ = nullptr;
  // A migration is dropped where it stands.
  outgoing_ = nullptr;
  incoming_ = nullptr;
  // Nobody is told any more.
  ended_ = nullptr;
  if (platform_ != nullptr) platform_->guest().kill();
}

absl::Status Vm::build() {
  const absl::StatusOr<std::vector<std::byte>> tree = make_device_tree(
      {.memory = options_.memory,
       .cpus = options_.cpus,
       .devices = static_cast<uint32_t>(options_.devices.size())});
  const bool payload = options_.guest == GuestKind::kPayload;
  if (payload || !options_.dump_dtb.empty()) {
    if (!tree.ok()) return annotate(tree.status(), "device tree");
  }
  if (!options_.dump_dtb.empty()) {
    VHOST_RETURN_IF_ERROR(write_file(options_.dump_dtb, *tree));
  }
  VHOST_RETURN_IF_ERROR(memory_.create(options_.memory));
  const auto make = [&] {
    if (comes(options_)) return make_incoming(/*connect=*/true);
    if (payload) {
      return make_kvm_platform(context_, address_space_, options_, *tree);
    }
    return make_driver_platform(context_, address_space_, options_);
  };
  absl::StatusOr<std::unique_ptr<Platform>> platform = make();
  if (!platform.ok()) return platform.status();
  take_platform(*std::move(platform));
  VHOST_RETURN_IF_ERROR(build_incoming());
  return build_control();
}

absl::StatusOr<std::unique_ptr<Platform>> Vm::make_incoming(bool connect) {
  return options_.guest == GuestKind::kPayload
             ? make_incoming_kvm_platform(context_, address_space_, options_,
                                          connect)
             : make_incoming_driver_platform(context_, address_space_, options_,
                                             connect);
}

// ORDER: what uses the old one goes first.
void Vm::take_platform(std::unique_ptr<Platform> platform) {
  outgoing_ = nullptr;
  pauser_ = nullptr;
  platform_ = std::move(platform);
  pauser_ =
      std::make_unique<Pauser>(loop_, platform_->guest(), platform_->devices());
  outgoing_ = std::make_unique<Outgoing>(context_, migration_parts(),
                                         [this] { migrated(); });
}

absl::StatusOr<VmMigration::Parts> Vm::renew() {
  if (!std::exchange(used_, true)) return migration_parts();
  absl::StatusOr<std::unique_ptr<Platform>> platform =
      make_incoming(/*connect=*/false);
  if (!platform.ok()) return platform.status();
  take_platform(*std::move(platform));
  for (const GuestMemory::Piece& piece : memory_.pieces()) {
    if (piece.id != 0) memory_.remove(piece.id, [](const absl::Status&) {});
  }
  return migration_parts();
}

bool Vm::has_copy() const {
  if (incoming_ == nullptr || started_) return false;
  const MigrationOutcome outcome = incoming_->outcome();
  return outcome == MigrationOutcome::kUnknown ||
         outcome == MigrationOutcome::kStuck;
}

VmMigration::Parts Vm::migration_parts() {
  return {.loop = loop_,
          .memory = address_space_,
          .pieces = memory_,
          .platform = *platform_,
          .pauser = *pauser_};
}

absl::Status Vm::build_incoming() {
  if (!comes(options_)) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Incoming>> incoming = Incoming::create(
      context_, options_,
      {.renew = [this] { return renew(); },
       .start_guest = [this] { return run_guest(); },
       .arrived =
           [this] {
             started_ = true;
             go_on_finishing();
           },
       .failed = [this](const absl::Status& why) { did_not_arrive(why); }});
  if (!incoming.ok()) return incoming.status();
  incoming_ = *std::move(incoming);
  return absl::OkStatus();
}

absl::Status Vm::build_control() {
  if (options_.control.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<ControlServer>> control =
      ControlServer::listen(
          loop_, options_.control,
          [this](const Request& request, ControlServer::Answer answer) {
            handle(request, std::move(answer));
          });
  if (!control.ok()) return control.status();
  control_ = *std::move(control);
  return absl::OkStatus();
}

void Vm::start(absl::AnyInvocable<void()> ended) {
  ended_ = std::move(ended);
  loop_.post([this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    if (incoming_ != nullptr) return incoming_->begin();
    platform_->prepare(
        [this](const absl::Status& prepared) { start_guest(prepared); });
  });
}

void Vm::start_guest(const absl::Status& prepared) {
  if (over_) return;
  absl::Status started = prepared;
  if (started.ok()) started = run_guest();
  if (!started.ok()) return kill(annotate(started, "start"));
  started_ = true;
  go_on_finishing();
}

absl::Status Vm::run_guest() {
  return platform_->guest().start([this] { guest_ended(); });
}

void Vm::guest_ended() {
  guest_over_ = true;
  // One that cannot be cancelled any more has the end of the guest with it.
  if (outgoing_->busy()) return outgoing_->cancel().IgnoreError();
  if (outgoing_->has_guest()) end();
}

void Vm::end() {
  over_ = true;
  progress_timer_ = nullptr;
  if (ended_) std::exchange(ended_, nullptr)();
}

void Vm::migrated() {
  if (over_) return;
  if (outgoing_->outcome() == MigrationOutcome::kMoved) {
    moved_ = true;
    platform_->guest().kill();
    return end();
  }
  if (guest_over_ && outgoing_->has_guest()) return end();
  go_on_finishing();
}

void Vm::did_not_arrive(const absl::Status& why) {
  if (over_) return;
  if (!options_.restore.empty()) return kill(annotate(why, "restore"));
  ctl::print_error(annotate(why, "incoming"), "minivm");
  if (finishing_) end();
}

std::string Vm::incoming_address() const {
  return incoming_ == nullptr ? "" : incoming_->address();
}

void Vm::close() {
  // Its devices are stopped, and another one's.
  if (moved_) return;
  const absl::Status closed = platform_->close();
  if (!closed.ok() && failure_.empty()) {
    failure_ = annotate(closed, "stop").ToString();
  }
}

WorkloadReport Vm::report() const {
  WorkloadReport out = platform_->guest().report();
  if (out.failure.empty()) out.failure = failure_;
  out.moved = moved_;
  if (moved_) out.state = "moved";
  if (incoming_ != nullptr && !started_) out.state = "waiting";
  return out;
}

// ---------------------------------------------------------------------------
// Finishing
// ---------------------------------------------------------------------------

void Vm::finish() {
  if (over_) return;
  if (finishing_) return kill(absl::CancelledError("asked twice to finish"));
  finishing_ = true;
  if (has_copy()) {
    return kill(absl::FailedPreconditionError(
        "finish: a guest came that does not run, and perhaps does nowhere"));
  }
  if (incoming_ != nullptr && !started_) {
    // What cannot be cancelled any more arrives, and finishes.
    incoming_->cancel().IgnoreError();
    if (!incoming_->busy()) return end();
  }
  if (outgoing_->busy()) outgoing_->cancel().IgnoreError();
  progress_at_ = loop_.now();
  watch_progress();
  go_on_finishing();
}

void Vm::go_on_finishing() {
  if (!finishing_ || !started_ || over_ || outgoing_->busy()) return;
  if (!outgoing_->has_guest()) {
    return kill(absl::FailedPreconditionError(
        "finish: the guest may run at the destination, or cannot be started"));
  }
  switch (pauser_->state()) {
    case Pauser::State::kRunning:
      return platform_->guest().finish();
    case Pauser::State::kPaused:
      return pauser_->resume([this](const absl::Status& resumed) {
        if (!resumed.ok()) return kill(resumed);
        go_on_finishing();
      });
    case Pauser::State::kPausing:
    case Pauser::State::kResuming:
      return;  // What is over then calls this.
  }
}

void Vm::watch_progress() {
  const uint64_t now = progress_of(platform_->guest().report());
  if (now != progress_ || outgoing_->busy()) progress_at_ = loop_.now();
  progress_ = now;
  if (loop_.now() - progress_at_ >= kNoProgress) {
    return kill(absl::DeadlineExceededError("finish: no progress for 60 s"));
  }
  progress_timer_ = loop_.timer(loop_.now() + kProgressInterval,
                                [this] { watch_progress(); });
}

void Vm::kill(const absl::Status& why) {
  if (failure_.empty()) failure_ = why.ToString();
  platform_->guest().kill();
  if (!over_) end();
}

}  // namespace vhost::minivm
