// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/payload_guest.h"

#include <chrono>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "tests/guest/payload/boot.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/machine/elf_loader.h"
#include "tools/minivm/machine/payload_elf.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

using payload::Mailbox;
using payload::u32;
using payload::u64;

// For how long requests in flight may take when the guest is to hold.
constexpr Duration kHoldDeadline = std::chrono::seconds(60);
constexpr Duration kWatchdog = std::chrono::seconds(1);

template <typename T>
T get(const T& field) {
  return __atomic_load_n(&field, __ATOMIC_SEQ_CST);
}
template <typename T>
void store(T& field, T value) {
  __atomic_store_n(&field, value, __ATOMIC_SEQ_CST);
}

// A C string that the guest may be writing to, and may leave without end.
template <size_t kSize>
std::string text(const char (&field)[kSize]) {
  std::string result;
  for (const char& letter : field) {
    const char value = get(letter);
    if (value == 0) break;
    const bool printable = value >= ' ' && value <= '~';
    result.push_back(printable ? value : '?');
  }
  return result;
}

}  // namespace

absl::Status PayloadGuest::set_up(const AddressSpace& memory,
                                  const PayloadOptions& options) {
  std::byte* const mailbox = memory.translate(kMailboxGpa, sizeof(Mailbox));
  if (mailbox == nullptr) {
    return absl::InvalidArgumentError("no RAM for the mailbox");
  }
  ram_ = memory.find(kMailboxGpa)->region;
  mailbox_ = reinterpret_cast<Mailbox*>(mailbox);
  if (!comes_) VHOST_RETURN_IF_ERROR(put_program(memory, options));
  VHOST_RETURN_IF_ERROR(
      machine_.port_bus().add(kSerialPort, Serial::kPorts, serial_));
  return machine_.port_bus().add(payload::kDoorbellPort, 1, doorbell_);
}

absl::Status PayloadGuest::put_program(const AddressSpace& memory,
                                       const PayloadOptions& options) {
  const std::span<const std::byte> file =
      options.elf.empty() ? payload_elf() : std::span(options.elf);
  const absl::StatusOr<ElfProgram> program = parse_elf(file);
  if (!program.ok()) return program.status();
  VHOST_RETURN_IF_ERROR(load_elf(*program, memory, kPayloadGpa));
  entry_ = program->entry;
  if (options.tree.size() > kMaxTreeSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device tree of ", options.tree.size(), " bytes, of ", kMaxTreeSize));
  }
  std::byte* const tree = memory.translate(kTreeGpa, kMaxTreeSize);
  if (tree == nullptr) {
    return absl::InvalidArgumentError("no RAM for the device tree");
  }
  std::fill_n(tree, kMaxTreeSize, std::byte{0});
  std::copy(options.tree.begin(), options.tree.end(), tree);
  init_mailbox();
  return absl::OkStatus();
}

u32 PayloadGuest::commanded() const { return get(mailbox_->command); }

void PayloadGuest::init_mailbox() {
  *mailbox_ = Mailbox{};
  mailbox_->magic = payload::kMailboxMagic;
  mailbox_->version = payload::kMailboxVersion;
  mailbox_->size = workload_.size.value_or(0);
  mailbox_->seed = workload_.seed;
  mailbox_->depth = workload_.depth;
  mailbox_->polled = workload_.polled ? 1 : 0;
  mailbox_->read_only = workload_.read_only ? 1 : 0;
}

absl::Status PayloadGuest::start(absl::AnyInvocable<void()> ended) {
  if (started_) return absl::FailedPreconditionError("guest: runs already");
  if (comes_ && !loaded_) {
    return absl::FailedPreconditionError("guest: none has come");
  }
  // It does not fail later than here without `ended`.
  VHOST_RETURN_IF_ERROR(annotate(start_machine(), "guest"));
  started_ = true;
  ended_ = std::move(ended);
  if (workload_.seconds.has_value()) {
    finish_at_ = loop_.now() + *workload_.seconds;
    finish_timer_ = loop_.timer(*finish_at_, [this] { finish(); });
  }
  if (loaded_) go_on_working();
  watch();
  return absl::OkStatus();
}

absl::Status PayloadGuest::start_machine() {
  auto failed = [this, alive = std::weak_ptr<bool>(alive_)](std::string why) {
    if (alive.expired()) return;
    failure_ = std::move(why);
    end();
  };
  if (!loaded_) return machine_.start(entry_, kTreeGpa, std::move(failed));
  machine_.go_on(std::move(failed));
  return absl::OkStatus();
}

void PayloadGuest::pause(Completion done) {
  paused_ = true;
  machine_.pause(std::move(done));
}

void PayloadGuest::resume() {
  paused_ = false;
  machine_.resume();
}

void PayloadGuest::hold(Completion done) {
  absl::Status refused;
  if (!started_ || over_ || paused_) {
    refused = absl::FailedPreconditionError("hold: the guest does not run");
  } else if (holding_) {
    refused = absl::FailedPreconditionError("hold: in progress");
  } else if (commanded() == payload::kFinish) {
    refused = absl::FailedPreconditionError("hold: the guest finishes");
  }
  if (!refused.ok()) {
    post([refused, done = std::move(done)]() mutable { done(refused); });
    return;
  }
  holding_ = std::move(done);
  hold_timer_ = loop_.timer(loop_.now() + kHoldDeadline, [this] {
    answer_hold(absl::DeadlineExceededError(absl::StrCat(
        "hold: ", get(mailbox_->in_flight), " requests are still in flight")));
  });
  command(payload::kHold);
  post([this] { look_at_state(); });
}

void PayloadGuest::release() {
  if (commanded() == payload::kHold) command(payload::kRun);
}

void PayloadGuest::finish() {
  if (!started_ || over_) return;
  command(payload::kFinish);
  if (holding_) {
    post([this] { answer_hold(absl::CancelledError("hold: told to finish")); });
  }
}

void PayloadGuest::kill() {
  killed_ = !over_;
  machine_.stop();
  end();
}

void PayloadGuest::command(payload::Command wanted) {
  store<u32>(mailbox_->command, wanted);
  wake();
}

void PayloadGuest::wake() {
  const absl::Status pulsed = machine_.pulse(kWatchdogGsi);
  if (pulsed.ok() || over_) return;
  failure_ = std::string(annotate(pulsed, "wake").message());
  end();
}

void PayloadGuest::look_at_state() {
  switch (get(mailbox_->state)) {
    case payload::kHeld:
      if (commanded() == payload::kHold) answer_hold(absl::OkStatus());
      return;
    case payload::kEnded:
    case payload::kFailed:
      return end();
    default:
      return;
  }
}

void PayloadGuest::answer_hold(absl::Status status) {
  if (!holding_) return;
  hold_timer_.reset();
  std::exchange(holding_, nullptr)(std::move(status));
}

// Posted: what is told of it may do anything, destroying the guest included.
void PayloadGuest::end() {
  if (over_) return;
  over_ = true;
  watchdog_.reset();
  finish_timer_.reset();
  if (holding_) {
    post([this] {
      answer_hold(absl::FailedPreconditionError("hold: the guest has ended"));
    });
  }
  post([this] {
    if (ended_) std::exchange(ended_, nullptr)();
  });
}

u64 PayloadGuest::progress() const {
  const Mailbox& box = *mailbox_;
  return get(box.reads) + get(box.writes) + get(box.frames_received) +
         get(box.resets) + get(box.failed_requests);
}

void PayloadGuest::watch() {
  watchdog_ = loop_.timer(loop_.now() + kWatchdog, [this] {
    const u64 now = progress();
    const bool waits =
        get(mailbox_->in_flight) != 0 || get(mailbox_->nets) != 0;
    if (!paused_ && waits && now == seen_progress_) {
      store<u32>(mailbox_->ticks, get(mailbox_->ticks) + 1);
      wake();
    }
    seen_progress_ = now;
    if (!over_) watch();
  });
}

const char* PayloadGuest::state_name() const {
  if (killed_) return "killed";
  if (!failure_.empty()) return "failed";
  if (!started_) return "created";
  constexpr const char* kNames[] = {"starting", "running", "held",
                                    "checking", "ended",   "failed"};
  const u32 state = get(mailbox_->state);
  return state < std::size(kNames) ? kNames[state] : "failed";
}

WorkloadReport PayloadGuest::report() const {
  const Mailbox& box = *mailbox_;
  WorkloadReport report;
  report.state = state_name();
  report.failure = failure_;
  // Memory that comes is another one's counters until it is all there.
  if (comes_ && !started_) return report;
  report.reads = get(box.reads);
  report.writes = get(box.writes);
  report.verified = get(box.verified);
  report.in_flight = get(box.in_flight);
  report.interrupts = get(box.interrupts);
  report.lost_interrupts = get(box.lost_interrupts);
  report.empty_interrupts = get(box.empty_interrupts);
  report.frames_sent = get(box.frames_sent);
  report.frames_received = get(box.frames_received);
  report.frame_faults = get(box.frame_faults);
  const size_t nets =
      std::min<size_t>(get(box.nets), std::size(box.received_by));
  for (size_t i = 0; i < nets; ++i) {
    report.received_by[absl::StrCat("net", i)] = get(box.received_by[i]);
  }
  report.failed_requests = get(box.failed_requests);
  report.resets = get(box.resets);
  report.in_doubt = get(box.in_doubt);
  for (size_t i = 0; i < report.faults.size(); ++i) {
    report.faults[i] = get(box.faults[i]);
  }
  report.first_fault = text(box.first_fault);
  if (failure_.empty() && get(box.state) == payload::kFailed) {
    report.failure = absl::StrCat("payload: ", text(box.failure));
  }
  return report;
}

absl::StatusOr<std::unique_ptr<Guest>> make_payload_guest(
    EventLoop& loop, AddressSpace& memory, Machine& machine,
    PayloadOptions options) {
  PayloadOptions images;
  images.elf = std::move(options.elf);
  images.tree = std::move(options.tree);
  auto guest = std::make_unique<PayloadGuest>(loop, machine.implementation(),
                                              std::move(options));
  VHOST_RETURN_IF_ERROR(annotate(guest->set_up(memory, images), "payload"));
  return guest;
}

}  // namespace vhost::minivm
