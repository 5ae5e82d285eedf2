// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/worker.h"

#include <utility>

#include "vhostdev/status.h"

namespace vhost::minivm {

Worker::Worker(EventLoop& loop, std::string name)
    : loop_(loop), name_(std::move(name)) {}

Worker::~Worker() {
  if (thread_.joinable()) thread_.join();
}

void Worker::start(absl::AnyInvocable<void()> changed) {
  changed_ = std::make_shared<absl::AnyInvocable<void()>>(std::move(changed));
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return notify();  // Elsewhere.
  }
  thread_ = std::thread([this] { thread_main(); });
}

void Worker::thread_main() {
  const absl::Status status = annotate(run(), name_);
  absl::MutexLock lock(&mutex_);
  if (!status.ok()) report_.failure = status.ToString();
  state_ = status.ok() ? "ended" : "failed";
  parked_ = held_ = false;
  ended_ = true;
  notify();
}

void Worker::notify() {
  loop_.post([weak = std::weak_ptr(changed_)] {
    if (const auto changed = weak.lock()) (*changed)();
  });
}

void Worker::set_paused(bool paused) {
  absl::MutexLock lock(&mutex_);
  paused_ = paused;
  if (!paused) parked_ = false;
  told_.Signal();
}

void Worker::set_command(Command command) {
  absl::MutexLock lock(&mutex_);
  if (command_ == Command::kKill) return;
  command_ = command;
  if (command != Command::kHold) held_ = false;
  told_.Signal();
}

void Worker::kill() {
  set_command(Command::kKill);
  if (thread_.joinable()) thread_.join();
}

Worker::Command Worker::gate(bool idle) {
  absl::MutexLock lock(&mutex_);
  while (command_ != Command::kKill) {
    const bool hold = command_ == Command::kHold && idle;
    if (!paused_ && !hold) break;
    const bool news = (paused_ && !parked_) || (hold && !held_);
    parked_ = paused_;
    held_ = hold;
    if (news) notify();
    told_.Wait(&mutex_);
  }
  parked_ = false;
  held_ = false;
  return command_;
}

absl::Status Worker::save(StateWriter& out) const {
  bool over = false;
  {
    absl::MutexLock lock(&mutex_);
    over = ended_;
    out.boolean(over);
    save_report(report_, out);
  }
  // Parked: its thread leaves everything alone.
  return over ? absl::OkStatus() : annotate(save_running(out), name_);
}

absl::Status Worker::load(StateReader& in) {
  const bool over = in.boolean();
  const WorkloadReport report = load_report(in);
  VHOST_RETURN_IF_ERROR(annotate(in.status(), name_));
  {
    absl::MutexLock lock(&mutex_);
    report_ = report;
    ended_ = over;
    state_ = !over ? "running" : report.failure.empty() ? "ended" : "failed";
  }
  return over ? absl::OkStatus() : annotate(load_running(in), name_);
}

bool Worker::parked() const {
  absl::MutexLock lock(&mutex_);
  return parked_;
}

bool Worker::held() const {
  absl::MutexLock lock(&mutex_);
  return held_;
}

bool Worker::ended() const {
  absl::MutexLock lock(&mutex_);
  return ended_;
}

WorkloadReport Worker::report() const {
  absl::MutexLock lock(&mutex_);
  WorkloadReport out = report_;
  out.state = held_ ? "held" : state_;
  return out;
}

void Worker::publish(const WorkloadReport& report) {
  absl::MutexLock lock(&mutex_);
  report_ = report;
}

void Worker::set_state(const char* state) {
  absl::MutexLock lock(&mutex_);
  state_ = state;
}

}  // namespace vhost::minivm
