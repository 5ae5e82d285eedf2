// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/pauser.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/request_drain.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::minivm {
namespace {

// How long requests may take of a guest that was not asked to wait for them.
constexpr Duration kDrainLimit = std::chrono::seconds(30);

}  // namespace

// Shared with the completions of its steps, which may come after its end.
struct Pauser::Impl : std::enable_shared_from_this<Pauser::Impl> {
  Impl(EventLoop& its_loop, Guest& its_guest, std::vector<Device*> its_devices)
      : loop(its_loop), guest(its_guest), devices(std::move(its_devices)) {}

  using Step = void (Impl::*)(absl::Status);
  // What calls `step`, if this is still there.
  Completion then(Step step) {
    return [weak = weak_from_this(), step](absl::Status status) {
      if (const std::shared_ptr<Impl> self = weak.lock()) {
        ((*self).*step)(std::move(status));
      }
    };
  }

  void finish(State to, absl::Status status) {
    state = to;
    std::exchange(done, nullptr)(std::move(status));
  }

  void held_now(absl::Status status);
  void guest_paused(absl::Status status);
  void requests_drained(absl::Status status);
  void device_paused(absl::Status status);
  void pause_next();
  void undo(absl::Status why);
  void device_resumed(absl::Status status);
  void resume_next();

  EventLoop& loop;
  Guest& guest;
  const std::vector<Device*> devices;
  State state = State::kRunning;
  bool with_devices = false;
  bool held = false;
  size_t paused = 0;     // So many of the devices, the first ones.
  absl::Status failure;  // Of a pause that is undone.
  std::unique_ptr<RequestDrain> drain;
  Completion done;
};

Pauser::Pauser(EventLoop& loop, Guest& guest, std::vector<Device*> devices)
    : impl_(std::make_shared<Impl>(loop, guest, std::move(devices))) {}

Pauser::~Pauser() = default;

Pauser::State Pauser::state() const { return impl_->state; }
bool Pauser::devices_paused() const { return impl_->paused != 0; }

bool Pauser::must_hold() const {
  return std::any_of(impl_->devices.begin(), impl_->devices.end(),
                     [](Device* device) {
                       return device->dev().traits().base_after_stop ==
                              BaseAfterStop::kMayBeUndrained;
                     });
}

absl::string_view Pauser::state_name() const {
  switch (impl_->state) {
    case State::kRunning:
      return "running";
    case State::kPausing:
      return "pausing";
    case State::kPaused:
      return "paused";
    case State::kResuming:
      return "resuming";
  }
  return "";
}

void Pauser::pause(bool devices, bool hold, Completion done) {
  Impl& impl = *impl_;
  if (impl.state != State::kRunning) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("pause: the VM is ", state_name())));
  }
  impl.state = State::kPausing;
  impl.done = std::move(done);
  impl.with_devices = devices;
  impl.failure = absl::OkStatus();
  impl.held = hold;
  if (impl.held) return impl.guest.hold(impl.then(&Impl::held_now));
  impl.held_now(absl::OkStatus());
}

// [pause]
void Pauser::Impl::held_now(absl::Status status) {
  if (!status.ok()) return undo(annotate(status, "pause"));
  guest.pause(then(&Impl::guest_paused));
}

void Pauser::Impl::guest_paused(absl::Status status) {
  if (!status.ok()) return undo(annotate(status, "pause"));
  if (!with_devices) return finish(State::kPaused, absl::OkStatus());
  std::vector<VhostDev*> devs;
  for (Device* device : devices) devs.push_back(&device->dev());
  drain = std::make_unique<RequestDrain>(loop, std::move(devs));
  drain->wait(kDrainLimit, then(&Impl::requests_drained));
}

void Pauser::Impl::requests_drained(absl::Status status) {
  if (!status.ok()) return undo(annotate(status, "pause"));
  pause_next();
}

void Pauser::Impl::pause_next() {
  if (paused == devices.size()) {
    return finish(State::kPaused, absl::OkStatus());
  }
  devices[paused]->pause(then(&Impl::device_paused));
}
// [end]

void Pauser::Impl::device_paused(absl::Status status) {
  // A back-end that is gone has nothing to be taken back.
  if (!status.ok() && !is_gone(devices[paused]->dev(), status)) {
    // It left kRunning all the same.
    failure =
        annotate(status, absl::StrCat("pause: ", devices[paused]->name()));
    ++paused;
    return resume_next();
  }
  ++paused;
  pause_next();
}

void Pauser::Impl::undo(absl::Status why) {
  failure = std::move(why);
  resume_next();
}

void Pauser::resume(Completion done) {
  Impl& impl = *impl_;
  if (impl.state != State::kPaused) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("resume: the VM is ", state_name())));
  }
  impl.state = State::kResuming;
  impl.done = std::move(done);
  impl.failure = absl::OkStatus();
  impl.resume_next();
}

// [resume]
// In reverse: the devices, the guest, its workload.
void Pauser::Impl::resume_next() {
  if (paused != 0) {
    return devices[paused - 1]->resume(then(&Impl::device_resumed));
  }
  guest.resume();
  if (std::exchange(held, false)) guest.release();
  finish(State::kRunning, failure);
}
// [end]

void Pauser::Impl::device_resumed(absl::Status status) {
  if (!status.ok()) {
    // Of a pause that failed, the first error is the one to tell.
    failure.Update(annotate(
        status, absl::StrCat("resume: ", devices[paused - 1]->name())));
    return finish(State::kPaused, failure);
  }
  --paused;
  resume_next();
}

}  // namespace vhost::minivm
