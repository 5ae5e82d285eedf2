// SPDX-License-Identifier: Apache-2.0
#include "backends/user/vhost_user_ops.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "backends/user/verbs.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

// Translations that the back-end asked for and did not acknowledge, at most: it
// may ask on its own channel as fast as it likes, and what it is sent for it
// must not pile up.
constexpr size_t kMaxTranslations = 64;

Connection::Options connection_options(const VhostUserOptions& options) {
  return {.max_outstanding = std::max(options.max_outstanding, 1u),
          .max_outstanding_fds = std::max(options.max_outstanding_fds, 1u),
          .reply_timeout = options.reply_timeout,
          .drain_timeout = options.drain_timeout,
          .memory_timeout = options.memory_timeout,
          .check_state_timeout = options.check_state_timeout};
}

}  // namespace

VhostUserOps::VhostUserOps(VhostUserAddress address, VhostUserOptions options)
    : options_(options),
      link_(std::move(address), connection_options(options),
            options.recorded_messages, this),
      binding_([this](Link::Ready ready) {
        step(ready);
        rearm();
      }) {}

VhostUserOps::~VhostUserOps() {
  // Completions are destroyed uncalled; a Pending may outlive this.
  for (Operation& operation : operations_) {
    if (operation.slot != nullptr) operation.slot->set_on_abandon(nullptr);
  }
  binding_.clear();
}

// ---------------------------------------------------------------------------
// Verbs
// ---------------------------------------------------------------------------

Pending VhostUserOps::submit(Verb verb, MonotonicTime deadline,
                             Pending::Done done) {
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  Pending pending(slot);
  Operation operation(verb_name(verb), deadline, std::move(slot));
  if (const Open* open = std::get_if<Open>(&verb)) {
    begin_open(*open, std::move(operation));
  } else {
    begin(verb, std::move(operation));
  }
  rearm();
  return pending;
}

void VhostUserOps::begin(const Verb& verb, Operation operation) {
  Batch batch(open_ ? &link_.connection() : nullptr, session_.acks(),
              &operation, now());
  const absl::Status encoded = std::visit(
      [&](const auto& v) -> absl::Status {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, Open>) {
          return absl::InternalError("open is not a batch");
        } else {
          return encode(v, session_, batch);
        }
      },
      verb);
  if (!encoded.ok()) {
    BatchResult refused;
    refused.status = encoded;
    return deliver(std::move(operation), std::move(refused));
  }
  if (!open_) {
    BatchResult lost = operation.take_lost(
        lost_.ok() ? absl::FailedPreconditionError("back-end is not open")
                   : lost_);
    return deliver(std::move(operation), std::move(lost));
  }
  remember(verb, session_);
  if (link_.channel() != nullptr) {
    link_.channel()->set_features(session_.accepted);
  }
  // What a Quiesce sent is confirmed by the next verb's replies and may leave
  // with its requests.  An in-band kick always has its own reply, and nothing
  // depends on it.
  if (!std::holds_alternative<Quiesce>(verb) &&
      !std::holds_alternative<KickQueues>(verb)) {
    batch.fence();
  }
  if (operation.replies_due == 0) {
    BatchResult done = operation.take_result();
    return deliver(std::move(operation), std::move(done));
  }
  await(std::move(operation));
  link_.flush(now());
}

// Waits for the replies of an operation whose batch was encoded.
void VhostUserOps::await(Operation operation) {
  ++waits_;
  if (operation.slot != nullptr) {
    const absl::string_view name = operation.name;
    operation.slot->set_on_abandon([this, name] {
      close(absl::CancelledError(absl::StrCat(name, " was abandoned")));
    });
  }
  operations_.push_back(std::move(operation));
}

void VhostUserOps::on_reply(Connection::Reply reply) {
  if (operations_.empty()) return;  // Replies are matched to operations' own.
  Operation& operation = operations_.front();
  const absl::Status taken = take_reply(std::move(reply), operation);
  if (!taken.ok()) return lose(link_.connection().fail(taken));
  if (operation.replies_due == 0) complete_front();
}

void VhostUserOps::complete_front() {
  if (open_phase_ != OpenPhase::kNone) return open_next();
  Operation operation = std::move(operations_.front());
  operations_.pop_front();
  if (operation.is_translation) --translations_;
  // Kept from before the guest accepts ACCESS_PLATFORM: the memory of a start
  // is only what changed since the one before.
  if (session_.offers_iommu()) {
    operation.note_memory(session_.memory, session_.lacks);
  }
  BatchResult result = operation.take_result();
  deliver(std::move(operation), std::move(result));
}

void VhostUserOps::deliver(Operation operation, BatchResult result) {
  ++completed_;
  if (operation.slot != nullptr) operation.slot->finish(std::move(result));
}

// ---------------------------------------------------------------------------
// The end of a connection
// ---------------------------------------------------------------------------

void VhostUserOps::lose(const absl::Status& why) {
  const absl::Status reason = why;  // It may live in the connection.
  link_.close();
  on_down(reason);
}

void VhostUserOps::on_down(const absl::Status& why) {
  const bool was_open = open_;
  end_all(why);
  if (was_open && sink_ != nullptr) sink_->on_lost(why);
}

void VhostUserOps::end_all(const absl::Status& why) {
  open_ = false;
  open_phase_ = OpenPhase::kNone;
  lost_ = why;
  session_.memory.reset();
  channel_peer_.reset();
  std::deque<Operation> ended = std::exchange(operations_, {});
  translations_ = 0;
  for (Operation& operation : ended) {
    BatchResult result = operation.take_lost(why);
    deliver(std::move(operation), std::move(result));
  }
}

void VhostUserOps::close(const absl::Status& why) {
  if (!link_.started() && operations_.empty()) return;
  const absl::Status reason = why;
  link_.close();
  end_all(reason);
  rearm();
}

// ---------------------------------------------------------------------------
// Driving it
// ---------------------------------------------------------------------------

void VhostUserOps::attach(EventLoop* loop, BackendSink* sink) {
  binding_.clear();
  loop_ = loop;
  sink_ = sink;
  rearm();
}

MonotonicTime VhostUserOps::now() const {
  const MonotonicTime real = std::chrono::steady_clock::now();
  if (clock_offset_) return real + *clock_offset_;
  return loop_ != nullptr ? loop_->now() : real;
}

std::optional<MonotonicTime> VhostUserOps::next_deadline() const {
  std::optional<MonotonicTime> out = link_.wake_at();
  for (const Operation& operation : operations_) {
    out = out ? std::min(*out, operation.deadline) : operation.deadline;
  }
  return out;
}

void VhostUserOps::step(Link::Ready ready) {
  ++depth_;
  link_.service(ready, now());
  check_deadlines();
  --depth_;
}

void VhostUserOps::check_deadlines() {
  const MonotonicTime time = now();
  for (const Operation& operation : operations_) {
    if (time < operation.deadline) continue;
    absl::Status why = absl::DeadlineExceededError(
        absl::StrCat(operation.name, ": deadline passed"));
    const bool linked = open_ || open_phase_ > OpenPhase::kLinking;
    return lose(linked ? link_.connection().fail(why) : why);
  }
}

void VhostUserOps::rearm() {
  if (depth_ != 0) return;  // The step on the stack ends with one.
  binding_.update(loop_, link_.interests(), next_deadline());
  link_.reap();
}

void VhostUserOps::pump(MonotonicTime deadline) {
  if (depth_ != 0) return;
  // The loop's clock may stand still: time goes on from where it is.
  clock_offset_ = now() - std::chrono::steady_clock::now();
  const uint64_t before = completed_;
  link_.flush(now());
  Link::Ready ready = wait_for_io(now());
  for (;;) {
    step(ready);
    if (completed_ != before || operations_.empty() || now() >= deadline) break;
    ready = wait_for_io(deadline);
  }
  clock_offset_.reset();
  rearm();
}

// Waits until something is ready or due, but not past `until`.
Link::Ready VhostUserOps::wait_for_io(MonotonicTime until) {
  const Link::Interests interests = link_.interests();
  std::array<pollfd, 2> fds = {};
  const size_t count = std::min(interests.size(), fds.size());
  for (size_t i = 0; i < count; ++i) {
    const IoEvents events = interests[i].events;
    fds[i].fd = interests[i].fd.get();
    fds[i].events = static_cast<short>((events.readable ? POLLIN : 0) |
                                       (events.writable ? POLLOUT : 0));
  }
  const std::optional<MonotonicTime> due = next_deadline();
  if (due) until = std::min(until, *due);
  const MonotonicTime time = now();
  timespec timeout = {};
  if (until > time) {
    // An hour is for ever: the caller asks again.
    const Duration left =
        std::min<Duration>(until - time, std::chrono::hours(1));
    timeout.tv_sec =
        std::chrono::duration_cast<std::chrono::seconds>(left).count();
    timeout.tv_nsec = (left % std::chrono::seconds(1)).count();
  }
  Link::Ready ready = {.main = false, .channel = false};
  if (::ppoll(fds.data(), count, &timeout, nullptr) <= 0) return ready;
  for (size_t i = 0; i < count; ++i) {
    if (fds[i].revents == 0) continue;
    (interests[i].is_channel ? ready.channel : ready.main) = true;
  }
  return ready;
}

std::vector<std::string> VhostUserOps::recent() const {
  std::vector<std::string> out = link_.recent();
  if (!open_ && !lost_.ok()) {
    out.push_back(absl::StrCat("lost: ", std::string(lost_.message())));
  }
  return out;
}

BackendCounters VhostUserOps::counters() const {
  BackendCounters out = link_.counters();
  out.waits = waits_;
  return out;
}

// ---------------------------------------------------------------------------
// What the back-end asks
// ---------------------------------------------------------------------------

void VhostUserOps::on_config_changed() {
  if (sink_ != nullptr) sink_->on_config_changed();
}

absl::Status VhostUserOps::on_vring_call(BackendQueue vq) {
  if (sink_ == nullptr) return absl::UnavailableError("no device");
  return sink_->on_vring_call(vq);
}

absl::Status VhostUserOps::on_vring_error(BackendQueue vq) {
  if (sink_ == nullptr) return absl::UnavailableError("no device");
  return sink_->on_vring_error(vq);
}

BackendServices& VhostUserOps::services() {
  return sink_ != nullptr ? sink_->services() : no_services_;
}

absl::Status VhostUserOps::on_host_notifier(BackendQueue vq,
                                            HostNotifierArea area) {
  return services().set_host_notifier(QueueIndex{to_int(vq)}, std::move(area));
}

// What the back-end will have when it reads what is sent now.
const MemorySnapshot* VhostUserOps::told_memory() const {
  for (auto it = operations_.rbegin(); it != operations_.rend(); ++it) {
    if (it->memory != nullptr) return it->memory.get();
  }
  return session_.memory.get();
}

absl::StatusOr<UpdateIotlb> VhostUserOps::translate(uint64_t iova,
                                                    IotlbAccess access) {
  const absl::StatusOr<IotlbEntry> entry = services().translate(iova, access);
  if (!entry.ok()) return entry.status();
  const MemorySnapshot* told = told_memory();
  std::optional<UpdateIotlb> update;
  if (told != nullptr) update = place_translation(*entry, iova, access, *told);
  // Of a table that was taken in part.
  const MemoryTableEntry* memory =
      update.has_value() ? told->find(update->entry.gpa, 1) : nullptr;
  if (memory == nullptr || session_.lacks.contains(memory->gpa)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "iova 0x", absl::Hex(iova),
        ": its translation does not allow it, or is not of memory that the "
        "back-end has"));
  }
  return *update;
}

absl::Status VhostUserOps::on_iotlb_miss(uint64_t iova, IotlbAccess access) {
  if (!open_) return absl::FailedPreconditionError("back-end is not open");
  absl::StatusOr<UpdateIotlb> update = translate(iova, access);
  if (!update.ok()) return update.status();
  Operation operation("UpdateIotlb", MonotonicTime::max(), nullptr);
  operation.is_translation = true;
  Batch batch(&link_.connection(), session_.acks(), &operation, now());
  VHOST_RETURN_IF_ERROR(encode(*update, session_, batch));
  operations_.push_back(std::move(operation));
  ++translations_;
  return absl::OkStatus();
}

bool VhostUserOps::takes_requests() const {
  return translations_ < kMaxTranslations;
}

}  // namespace vhost::user

namespace vhost {

std::unique_ptr<VhostOps> make_vhost_user_ops(VhostUserAddress address,
                                              VhostUserOptions options) {
  return std::make_unique<user::VhostUserOps>(std::move(address), options);
}

}  // namespace vhost
