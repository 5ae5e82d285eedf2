// SPDX-License-Identifier: Apache-2.0
//
// What a VM answers to `minivm ctl`.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/report.h"
#include "tools/minivm/vm.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

Json piece_json(const GuestMemory::Piece& piece) {
  Json out = Json::object();
  out["id"] = piece.id;
  out["address"] = piece.gpa;
  out["size"] = piece.size;
  if (piece.removing) out["removing"] = true;
  return out;
}

// What is done to a guest that is here, and to nobody else.
bool needs_guest(Verb verb) {
  switch (verb) {
    case Verb::kPause:
    case Verb::kResume:
    case Verb::kMigrate:
    case Verb::kSave:
      return true;
    default:
      return false;
  }
}

bool changes_memory(Verb verb) {
  return verb == Verb::kAddMemory || verb == Verb::kRemoveMemory;
}

}  // namespace

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

absl::Status Vm::check(Verb verb) const {
  const auto refused = [verb](absl::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat(to_string(verb), ": ", why));
  };
  if (over_) return refused("the guest has ended");
  const bool changes = needs_guest(verb) || changes_memory(verb);
  if (!changes) return absl::OkStatus();
  if (!started_ && incoming_ != nullptr) {
    return refused("no guest has come here yet");
  }
  if (!started_ && needs_guest(verb)) return refused("the guest starts");
  if (outgoing_->busy()) {
    // What was added is moved too; nothing may be missing.
    if (verb == Verb::kAddMemory && outgoing_->takes_memory()) {
      return absl::OkStatus();
    }
    return refused("a migration is under way; cancel ends it");
  }
  if (!outgoing_->has_guest()) {
    return refused(
        "after a migration the guest is paused here: take-over says that "
        "nobody else runs it");
  }
  const bool leaves = verb == Verb::kMigrate || verb == Verb::kSave;
  if (leaves && (finishing_ || guest_over_ ||
                 pauser_->state() != Pauser::State::kRunning)) {
    return refused(absl::StrCat("the VM is ", state()));
  }
  return absl::OkStatus();
}

void Vm::pause(const Request& request, ControlServer::Answer answer) {
  const bool hold =
      request.devices && !request.no_drain && pauser_->must_hold();
  pauser_->pause(request.devices, hold, answering(std::move(answer)));
}

void Vm::take_over(ControlServer::Answer answer) {
  Completion done = answering(std::move(answer));
  if (incoming_ != nullptr && !started_) {
    return incoming_->take_over(std::move(done));
  }
  outgoing_->take_back(std::move(done));
}

void Vm::handle(const Request& request, ControlServer::Answer answer) {
  const absl::Status allowed = check(request.verb);
  if (!allowed.ok()) return answer(allowed);
  const auto reply = [&answer](const absl::Status& status) {
    status.ok() ? answer(Json::object()) : answer(status);
  };
  switch (request.verb) {
    case Verb::kStatus:
      return answer(status());
    case Verb::kStats:
      return answer(stats());
    case Verb::kPause:
      return pause(request, std::move(answer));
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
    case Verb::kMigrate:
    case Verb::kSave:
      return outgoing_->begin(request, std::move(answer));
    case Verb::kCancel:
      return reply(outgoing_->cancel());
    case Verb::kTakeOver:
      return take_over(std::move(answer));
  }
}

std::string Vm::state() const {
  if (incoming_ != nullptr && !started_) {
    if (incoming_->busy()) return "arriving";
    return has_copy() ? std::string(to_string(incoming_->outcome()))
                      : "waiting";
  }
  if (finishing_) return "finishing";
  if (outgoing_->busy()) return "migrating";
  if (!outgoing_->has_guest()) {
    return std::string(to_string(outgoing_->outcome()));
  }
  return std::string(pauser_->state_name());
}

Json Vm::status() const {
  Json out = Json::object();
  out["state"] = state();
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
  if (!incoming_address().empty()) out["incoming"] = incoming_address();
  // Of the guest that goes; before, of the one that came.
  Json migration = outgoing_->json();
  if (migration.is_null() && incoming_ != nullptr) {
    migration = incoming_->json();
  }
  if (!migration.is_null()) out["migration"] = std::move(migration);
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
