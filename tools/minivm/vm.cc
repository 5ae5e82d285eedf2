// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/vm.h"

#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/device_tree.h"
#include "tools/minivm/driver_guest.h"
#include "tools/minivm/files.h"
#include "tools/minivm/kvm_platform.h"
#include "tools/minivm/report.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

constexpr Duration kProgressInterval = std::chrono::milliseconds(500);
constexpr Duration kNoProgress = std::chrono::seconds(60);

Json piece_json(const GuestMemory::Piece& piece) {
  Json out = Json::object();
  out["id"] = piece.id;
  out["address"] = piece.gpa;
  out["size"] = piece.size;
  if (piece.removing) out["removing"] = true;
  return out;
}

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
  absl::StatusOr<std::unique_ptr<Platform>> platform =
      payload ? make_kvm_platform(context_, address_space_, options_, *tree)
              : make_driver_platform(context_, address_space_, options_);
  if (!platform.ok()) return platform.status();
  platform_ = *std::move(platform);
  pauser_ = std::make_unique<Pauser>(platform_->guest(), platform_->devices());
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
    platform_->prepare(
        [this](const absl::Status& prepared) { start_guest(prepared); });
  });
}

void Vm::start_guest(const absl::Status& prepared) {
  if (over_) return;
  absl::Status started = prepared;
  if (started.ok()) {
    started = platform_->guest().start([this] { guest_ended(); });
  }
  if (!started.ok()) return kill(annotate(started, "start"));
  started_ = true;
  go_on_finishing();
}

void Vm::guest_ended() {
  over_ = true;
  progress_timer_ = nullptr;
  if (ended_) std::exchange(ended_, nullptr)();
}

void Vm::close() {
  const absl::Status closed = platform_->close();
  if (!closed.ok() && failure_.empty()) {
    failure_ = annotate(closed, "stop").ToString();
  }
}

WorkloadReport Vm::report() const {
  WorkloadReport out = platform_->guest().report();
  if (out.failure.empty()) out.failure = failure_;
  return out;
}

// ---------------------------------------------------------------------------
// Finishing
// ---------------------------------------------------------------------------

void Vm::finish() {
  if (over_) return;
  if (finishing_) return kill(absl::CancelledError("asked twice to finish"));
  finishing_ = true;
  progress_at_ = loop_.now();
  watch_progress();
  go_on_finishing();
}

void Vm::go_on_finishing() {
  if (!finishing_ || !started_ || over_) return;
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
  if (now != progress_) progress_at_ = loop_.now();
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
  if (!over_) guest_ended();
}

// ---------------------------------------------------------------------------
// Control
// ---------------------------------------------------------------------------

Completion Vm::answering(ControlServer::Answer answer) {
  return
      [this, answer = std::move(answer)](const absl::Status& status) mutable {
        if (status.ok()) {
          answer(Json::object());
        } else {
          answer(status);
        }
        go_on_finishing();
      };
}

void Vm::handle(const Request& request, ControlServer::Answer answer) {
  if (over_) {
    return answer(absl::FailedPreconditionError("the guest has ended"));
  }
  const bool moves =
      request.verb == Verb::kPause || request.verb == Verb::kResume;
  if (moves && !started_) {
    return answer(absl::FailedPreconditionError("the guest starts"));
  }
  const auto reply = [&answer](const absl::Status& status) {
    status.ok() ? answer(Json::object()) : answer(status);
  };
  switch (request.verb) {
    case Verb::kStatus:
      return answer(status());
    case Verb::kStats:
      return answer(stats());
    case Verb::kPause:
      return pauser_->pause(request.devices, answering(std::move(answer)));
    case Verb::kResume:
      return pauser_->resume(answering(std::move(answer)));
    case Verb::kAddMemory:
      return add_memory(request.size, std::move(answer));
    case Verb::kRemoveMemory:
      return remove_memory(request.id, std::move(answer));
    case Verb::kMask:
      return reply(set_masked(request, true));
    case Verb::kUnmask:
      return reply(set_masked(request, false));
    case Verb::kQuit:
      answer(Json::object());
      return finish();
  }
}

Json Vm::status() const {
  Json out = Json::object();
  out["state"] = finishing_ ? "finishing" : std::string(pauser_->state_name());
  out["devices_paused"] = pauser_->devices_paused();
  const WorkloadReport now = report();
  out["guest"] = now.state;
  out["faults"] = now.total_faults();
  Json devices = Json::object();
  for (Device* const device : platform_->devices()) {
    devices[device->name()] = std::string(to_string(device->dev().state()));
  }
  out["devices"] = std::move(devices);
  Json pieces = Json::array();
  for (const GuestMemory::Piece& piece : memory_.pieces()) {
    pieces.push_back(piece_json(piece));
  }
  out["memory"] = std::move(pieces);
  return out;
}

Json Vm::stats() const {
  Json out = Json::object();
  out["exits"] = platform_->guest().exits();
  out["free_memory_slots"] = context_.free_memory_slots();
  Json devices = Json::object();
  for (Device* const device : platform_->devices()) {
    devices[device->name()] = device->stats();
  }
  out["devices"] = std::move(devices);
  out["workload"] = report_json(report());
  return out;
}

void Vm::add_memory(uint64_t size, ControlServer::Answer answer) {
  memory_.add(size,
              [answer = std::move(answer)](
                  const absl::StatusOr<GuestMemory::Piece>& piece) mutable {
                if (piece.ok()) {
                  answer(piece_json(*piece));
                } else {
                  answer(piece.status());
                }
              });
}

void Vm::remove_memory(uint64_t id, ControlServer::Answer answer) {
  memory_.remove(
      id, [answer = std::move(answer)](const absl::Status& status) mutable {
        if (status.ok()) {
          answer(Json::object());
        } else {
          answer(status);
        }
      });
}

absl::Status Vm::set_masked(const Request& request, bool masked) {
  for (Device* const device : platform_->devices()) {
    if (device->name() == request.device) {
      return device->set_masked(request.queue, masked);
    }
  }
  return absl::NotFoundError(
      absl::StrCat("no device ", ctl::printable(request.device)));
}

}  // namespace vhost::minivm
