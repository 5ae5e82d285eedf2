// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_vhost_ops.h"

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/fakes/fake_journal.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

// What traits() shows before the first Open.
BackendTraits before_open(const BackendTraits& offered) {
  BackendTraits traits;
  traits.kind = offered.kind;
  traits.memory_policy = offered.memory_policy;
  traits.needs_shared_log = offered.needs_shared_log;
  traits.per_queue_stop = offered.per_queue_stop;
  traits.may_block = offered.may_block;
  traits.has_config_interrupt = offered.has_config_interrupt;
  traits.pins_memory = offered.pins_memory;
  traits.logs_behind_iommu = offered.logs_behind_iommu;
  traits.base_after_stop = offered.base_after_stop;
  traits.resume = offered.resume;
  return traits;
}

// Verbs that may be submitted while another runs.
bool runs_beside(const Verb& verb) {
  return std::holds_alternative<SetCalls>(verb) ||
         std::holds_alternative<UpdateIotlb>(verb);
}

std::string name_of(const Verb& verb) { return std::string(verb_name(verb)); }

std::string code_of(const absl::Status& status) {
  return absl::StatusCodeToString(status.code());
}

// What `self` refers to, or null.  It holds nothing: the ops may be destroyed
// in whatever is called next.
FakeVhostOps* get(const std::weak_ptr<FakeVhostOps*>& self) {
  const std::shared_ptr<FakeVhostOps*> alive = self.lock();
  return alive == nullptr ? nullptr : *alive;
}

bool signal_fd(const UniqueFd& fd) {
  const uint64_t one = 1;
  return fd.valid() && ::write(fd.get(), &one, sizeof(one)) == sizeof(one);
}

}  // namespace

FakeVhostOps::FakeVhostOps(BackendTraits traits)
    : offered(std::move(traits)),
      shared_journal(std::make_shared<std::vector<std::string>>()),
      journal(*shared_journal),
      visible_(before_open(offered)),
      self_(std::make_shared<FakeVhostOps*>(this)) {}

FakeVhostOps::~FakeVhostOps() {
  self_.reset();
  journal.push_back("destroyed");
}

void FakeVhostOps::refuse_next(const std::string& verb, absl::Status status,
                               std::vector<Step> steps) {
  planned_[verb].push_back(
      {{FakeBackend::Fate::kRefused, std::move(status)}, std::move(steps)});
}

void FakeVhostOps::lose_next(const std::string& verb, absl::Status status,
                             std::vector<Step> steps) {
  planned_[verb].push_back(
      {{FakeBackend::Fate::kUnknown, std::move(status)}, std::move(steps)});
}

// ---------------------------------------------------------------------------
// Doing a verb
// ---------------------------------------------------------------------------

Pending FakeVhostOps::submit(Verb verb, MonotonicTime deadline,
                             Pending::Done done) {
  for (std::string& line : journal_lines(verb)) {
    journal.push_back(std::move(line));
  }
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  if (const absl::Status status = admit(verb); !status.ok()) {
    slot->finish(all_steps(verb, FakeBackend::Fate::kRefused, status));
    return Pending(slot);
  }
  if (completes == Completes::kInline) {
    answer(slot, execute(verb));
    return Pending(slot);
  }
  const std::weak_ptr<FakeVhostOps*> self = self_;
  slot->set_on_abandon([self, raw = slot.get()] {
    if (FakeVhostOps* ops = get(self)) ops->abandoned(raw);
  });
  queue_.push_back({std::move(verb), deadline, slot, nullptr});
  arm_deadline(queue_.back());
  if (completes == Completes::kPosted && loop_ != nullptr) {
    loop_->post([self] {
      if (FakeVhostOps* ops = get(self)) ops->complete_next();
    });
  }
  return Pending(slot);
}

// Whether the ops' user may submit `verb` now.
absl::Status FakeVhostOps::admit(const Verb& verb) {
  const bool alone =
      runs_beside(verb) ||
      std::all_of(queue_.begin(), queue_.end(), [](const UnderWay& other) {
        return runs_beside(other.verb);
      });
  if (!alone) {
    misuse.push_back(absl::StrCat(name_of(verb), " while ",
                                  name_of(queue_.front().verb), " runs"));
    return absl::FailedPreconditionError("another verb is under way");
  }
  const bool is_open = std::holds_alternative<Open>(verb);
  if (is_open == open_) {
    if (open_) misuse.push_back("Open while open");
    return absl::FailedPreconditionError(open_ ? "already open" : "not open");
  }
  return absl::OkStatus();
}

BatchResult FakeVhostOps::execute(const Verb& verb) {
  if (std::holds_alternative<Open>(verb)) {
    if (!away.ok()) {
      return all_steps(verb, FakeBackend::Fate::kRefused, away);
    }
    backend.forget_connection();
    visible_ = offered;
    open_ = true;
  }
  std::optional<Failure> failure;
  if (const auto plans = planned_.find(name_of(verb));
      plans != planned_.end() && !plans->second.empty()) {
    failure = std::move(plans->second.front());
    plans->second.pop_front();
  }
  auto plan = [&failure](Step step) -> std::optional<FakeBackend::Planned> {
    if (!failure.has_value()) return std::nullopt;
    const std::vector<Step>& steps = failure->steps;
    const bool meant = steps.empty() || std::find(steps.begin(), steps.end(),
                                                  step) != steps.end();
    return meant ? std::optional(failure->planned) : std::nullopt;
  };
  BatchResult result = backend.run(verb, visible_, plan);
  if (failure.has_value() && result.status.ok()) {
    misuse.push_back(
        absl::StrCat("a step planned to fail is not part of ", name_of(verb)));
  }
  ++counters_.waits;
  ++counters_.messages;
  ++counters_.replies;
  if (std::holds_alternative<Open>(verb) && !result.status.ok()) hang_up();
  return result;
}

BatchResult FakeVhostOps::all_steps(const Verb& verb, FakeBackend::Fate fate,
                                    const absl::Status& why) {
  return backend.run(verb, visible_, [&](Step) {
    return std::optional<FakeBackend::Planned>({fate, why});
  });
}

// Completes a verb; where its fate is unknown the connection goes with it.
void FakeVhostOps::answer(const std::shared_ptr<Pending::Slot>& slot,
                          BatchResult result) {
  const std::weak_ptr<FakeVhostOps*> self = self_;
  const bool lost = !result.unknown.empty();
  const absl::Status why = result.status;
  if (lost) hang_up();
  // ORDER: the completion first; the sink hears that all verbs are over.
  slot->finish(std::move(result));
  if (lost && !self.expired()) end_connection(why, /*tell=*/true);
}

bool FakeVhostOps::complete_next() {
  if (queue_.empty()) return false;
  const UnderWay entry = std::move(queue_.front());
  queue_.pop_front();
  answer(entry.slot, execute(entry.verb));
  return true;
}

// ---------------------------------------------------------------------------
// The connection
// ---------------------------------------------------------------------------

void FakeVhostOps::hang_up() {
  open_ = false;
  backend.forget_connection();
}

// Completes what is under way; `tell`: reports the loss.
void FakeVhostOps::end_connection(const absl::Status& why, bool tell) {
  hang_up();
  const std::weak_ptr<FakeVhostOps*> self = self_;
  std::deque<UnderWay> ended = std::exchange(queue_, {});
  for (UnderWay& entry : ended) {
    BatchResult result =
        all_steps(entry.verb, FakeBackend::Fate::kUnknown, why);
    entry.slot->finish(std::move(result));
    if (self.expired()) return;
  }
  if (!tell) return;
  journal.push_back(absl::StrCat("lost ", code_of(why)));
  if (sink_ != nullptr) sink_->on_lost(why);
}

void FakeVhostOps::lose(const absl::Status& why) {
  if (open_ || !queue_.empty()) end_connection(why, /*tell=*/true);
}

void FakeVhostOps::close(const absl::Status& why) {
  if (!open_ && queue_.empty()) return;
  journal.push_back(absl::StrCat("close ", code_of(why)));
  end_connection(why, /*tell=*/false);
}

void FakeVhostOps::abandoned(const Pending::Slot* slot) {
  const auto found = std::find_if(
      queue_.begin(), queue_.end(),
      [slot](const UnderWay& entry) { return entry.slot.get() == slot; });
  if (found == queue_.end()) return;
  journal.push_back(absl::StrCat("abandon ", name_of(found->verb)));
  queue_.erase(found);
  end_connection(absl::CancelledError("a verb was abandoned"), /*tell=*/false);
}

// ---------------------------------------------------------------------------
// Time
// ---------------------------------------------------------------------------

// What watches is told from the loop, whatever becomes of the ops meanwhile.
class FakeVhostOps::Watch final : public PeerWatch {
 public:
  Watch(const std::shared_ptr<FakeVhostOps*>& ops, EventLoop& loop,
        EventLoop::Callback appeared)
      : ops_(ops),
        loop_(loop),
        appeared_(std::make_shared<EventLoop::Callback>(std::move(appeared))),
        announces_all_((*ops)->watching->announces_all) {
    (*ops)->watch_ = this;
  }
  ~Watch() override {
    FakeVhostOps* const ops = get(ops_);
    if (ops != nullptr && ops->watch_ == this) ops->watch_ = nullptr;
  }
  bool announces_all() const override { return announces_all_; }
  void announce() {
    loop_.post([weak = std::weak_ptr<EventLoop::Callback>(appeared_)] {
      const std::shared_ptr<EventLoop::Callback> appeared = weak.lock();
      if (appeared != nullptr) (*appeared)();
    });
  }

 private:
  const std::weak_ptr<FakeVhostOps*> ops_;
  EventLoop& loop_;
  const std::shared_ptr<EventLoop::Callback> appeared_;
  const bool announces_all_;
};

std::unique_ptr<PeerWatch> FakeVhostOps::watch_for_peer(
    EventLoop& loop, EventLoop::Callback appeared) {
  if (open_) misuse.push_back("watch for a peer while open");
  if (watch_ != nullptr) misuse.push_back("a second watch for a peer");
  if (!watching.has_value()) return nullptr;
  journal.push_back("watch for peer");
  return std::make_unique<Watch>(self_, loop, std::move(appeared));
}

bool FakeVhostOps::appear() {
  if (watch_ == nullptr) return false;
  watch_->announce();
  return true;
}

MonotonicTime FakeVhostOps::now() const {
  return loop_ != nullptr ? loop_->now() : std::chrono::steady_clock::now();
}

void FakeVhostOps::arm_deadline(UnderWay& entry) {
  if (loop_ == nullptr || entry.deadline == MonotonicTime::max()) return;
  entry.timer = loop_->timer(entry.deadline,
                             [self = std::weak_ptr<FakeVhostOps*>(self_)] {
                               if (FakeVhostOps* ops = get(self)) ops->expire();
                             });
}

void FakeVhostOps::expire() {
  const MonotonicTime time = now();
  for (const UnderWay& entry : queue_) {
    if (entry.deadline > time) continue;
    const std::string name = name_of(entry.verb);
    return end_connection(
        absl::DeadlineExceededError(absl::StrCat(name, ": no answer")),
        /*tell=*/true);
  }
}

void FakeVhostOps::pump(MonotonicTime deadline) {
  if (queue_.empty()) return;
  if (completes != Completes::kOnRequest && completes != Completes::kNever) {
    complete_next();
    return;
  }
  for (const UnderWay& entry : queue_) {
    deadline = std::min(deadline, entry.deadline);
  }
  const std::weak_ptr<FakeVhostOps*> self = self_;
  if (on_wait) {
    on_wait(deadline);
  } else if (deadline != MonotonicTime::max()) {
    std::this_thread::sleep_until(deadline);
  }
  if (!self.expired()) expire();
}

// ---------------------------------------------------------------------------
// What the back-end does by itself
// ---------------------------------------------------------------------------

void FakeVhostOps::attach(EventLoop* loop, BackendSink* sink) {
  loop_ = loop;
  sink_ = sink;
}

void FakeVhostOps::change_config(uint32_t offset,
                                 std::vector<std::byte> bytes) {
  const size_t end = offset + bytes.size();
  if (backend.config.size() < end) backend.config.resize(end);
  std::copy(bytes.begin(), bytes.end(), backend.config.begin() + offset);
  if (open_ && sink_ != nullptr) sink_->on_config_changed();
}

absl::Status FakeVhostOps::report_vring_call(BackendQueue vq) {
  if (!open_ || sink_ == nullptr) return absl::UnavailableError("not open");
  return sink_->on_vring_call(vq);
}

void FakeVhostOps::report_vring_error(BackendQueue vq) {
  if (!open_ || sink_ == nullptr) return;
  static_cast<void>(sink_->on_vring_error(vq));
}

bool FakeVhostOps::signal_call(BackendQueue vq) {
  const auto found = backend.queues.find(to_int(vq));
  return found != backend.queues.end() && signal_fd(found->second.call);
}

bool FakeVhostOps::signal_err(BackendQueue vq) {
  const auto found = backend.queues.find(to_int(vq));
  return found != backend.queues.end() && signal_fd(found->second.err);
}

bool FakeVhostOps::take_kick(BackendQueue vq) {
  const auto found = backend.queues.find(to_int(vq));
  if (found == backend.queues.end() || !found->second.kick.valid()) {
    return false;
  }
  uint64_t count = 0;
  return ::read(found->second.kick.get(), &count, sizeof(count)) ==
         static_cast<ssize_t>(sizeof(count));
}

std::vector<std::string> FakeVhostOps::recent() const {
  constexpr size_t kLines = 8;
  const size_t first = journal.size() - std::min(journal.size(), kLines);
  return {journal.begin() + static_cast<std::ptrdiff_t>(first), journal.end()};
}

}  // namespace vhost::testing
