// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/journal_run.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr uint64_t kUnit = 4096;  // Bytes of a request, at most.
// One request in so many is a read.
constexpr uint32_t kReadShare = 4;
// Buffers per request in flight: one that is done is not used again at once, so
// that a back-end which carries it out once more writes old data.
constexpr uint64_t kBuffersPerRequest = 2;
constexpr uint64_t kBufferAlignment = 4096;
constexpr std::byte kUnread{0xdb};

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

absl::Status check_size(const JournalRun::Options& options) {
  const uint64_t unit = options.unit;
  if (options.size / unit > Journal::kMostUnits) {
    return absl::InvalidArgumentError(
        absl::StrCat("size of ", options.size, " bytes: a journal takes up to ",
                     human_bytes(Journal::kMostUnits * unit)));
  }
  if (options.size % unit != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("size of ", options.size,
                     " bytes: a journal needs a multiple of ", unit));
  }
  if (options.size < unit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "size of ", options.size, " bytes: less than a request of ", unit));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t JournalRun::unit_for(uint64_t limit) {
  if (limit < kBlkSectorSize) return kUnit;
  return std::min(kUnit, limit / kBlkSectorSize * kBlkSectorSize);
}

uint64_t JournalRun::memory_for(const Options& options) {
  return kBufferAlignment + options.unit * kBuffersPerRequest * options.window;
}

JournalRun::JournalRun(BlkClient& client, const Options& options)
    : client_(client),
      journal_(options.size / options.unit, static_cast<uint32_t>(options.unit),
               options.seed),
      busy_(journal_.units()),
      // Half of the units at most: the other half is to choose from.
      window_(std::min<uint64_t>(options.window, (journal_.units() + 1) / 2)),
      random_{options.seed} {}

absl::StatusOr<std::unique_ptr<JournalRun>> JournalRun::create(
    BlkClient& client, DmaMemory& memory, const Options& options) {
  VHOST_RETURN_IF_ERROR(check_size(options));
  std::unique_ptr<JournalRun> out(new JournalRun(client, options));
  const uint64_t bytes = options.unit * kBuffersPerRequest * out->window_;
  VHOST_RETURN_IF_ERROR(
      out->take_memory(memory.allocate(bytes, kBufferAlignment)));
  for (size_t i = 0; i < out->slots_.size(); ++i) out->free_.push_back(i);
  return out;
}

absl::StatusOr<std::unique_ptr<JournalRun>> JournalRun::restore(
    BlkClient& client, DmaMemory& memory, const Options& options,
    StateReader& in) {
  VHOST_RETURN_IF_ERROR(check_size(options));
  std::unique_ptr<JournalRun> out(new JournalRun(client, options));
  const uint64_t bytes = options.unit * kBuffersPerRequest * out->window_;
  const uint64_t gpa = in.u64();
  VHOST_RETURN_IF_ERROR(in.status());
  VHOST_RETURN_IF_ERROR(out->take_memory(memory.allocate_at(gpa, bytes)));
  VHOST_RETURN_IF_ERROR(out->load(in));
  return out;
}

absl::Status JournalRun::take_memory(absl::StatusOr<DmaBuffer> buffers) {
  if (!buffers.ok()) return buffers.status();
  memory_ = *std::move(buffers);
  slots_.resize(kBuffersPerRequest * window_);
  completions_.resize(window_ + 1);
  const uint64_t unit = journal_.unit_size();
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].buffer = memory_.span().subspan(i * unit, unit);
  }
  return absl::OkStatus();
}

JournalRun::~JournalRun() {
  if (in_flight() != 0) memory_.abandon();
}

// A unit at random that no request is in flight for.
uint64_t JournalRun::pick() {
  uint64_t unit = random_() % journal_.units();
  while (busy_[unit]) unit = unit + 1 == journal_.units() ? 0 : unit + 1;
  return unit;
}

absl::Status JournalRun::submit(uint64_t unit, bool write) {
  const size_t index = free_.front();
  Slot& slot = slots_[index];
  slot.unit = unit;
  slot.write = write;
  if (write) {
    fill_pattern(std::span(slot.buffer.data, slot.buffer.size),
                 journal_.begin_write(unit));
    ++writes_;
  } else {
    // What the device does not write must not look as if it had.
    std::memset(slot.buffer.data, std::to_integer<int>(kUnread),
                slot.buffer.size);
  }
  slot.submitted = clock_now();
  const absl::Status submitted =
      client_.submit({.op = write ? BlkOp::kWrite : BlkOp::kRead,
                      .offset = unit * journal_.unit_size(),
                      .buffers = std::span(&slot.buffer, 1),
                      .cookie = index});
  if (!submitted.ok()) {
    if (write) journal_.end_write(unit, /*acknowledged=*/false);
    return annotate(submitted, write ? "write" : "read");
  }
  free_.pop_front();
  busy_[unit] = true;
  return absl::OkStatus();
}

absl::Status JournalRun::submit_next() {
  if (!rewrite_.empty()) {
    const uint64_t unit = rewrite_.front();
    rewrite_.pop_front();
    return submit(unit, true);
  }
  const uint64_t unit = pick();
  const bool read = journal_.written(unit) && random_() % kReadShare == 0;
  return submit(unit, !read);
}

absl::Status JournalRun::submit_load(bool fresh) {
  // What was read to no avail is read again by the check.
  reread_.clear();
  while (in_flight() < window_ && (fresh || !rewrite_.empty())) {
    VHOST_RETURN_IF_ERROR(submit_next());
  }
  return absl::OkStatus();
}

absl::Status JournalRun::submit_flush() {
  if (!client_.config().flush) flushed_ = true;
  if (flushed_ || flushing_) return absl::OkStatus();
  BlkRequest request;
  request.op = BlkOp::kFlush;
  request.cookie = kFlushCookie;
  VHOST_RETURN_IF_ERROR(annotate(client_.submit(request), "flush"));
  flushing_ = true;
  return absl::OkStatus();
}

void JournalRun::begin_check() {
  next_check_ = 0;
  reread_.clear();
  reads_before_check_ = reads_;
}

absl::Status JournalRun::submit_check() {
  while (in_flight() < window_ &&
         (next_check_ < journal_.units() || !reread_.empty())) {
    uint64_t unit = next_check_;
    if (!reread_.empty()) {
      unit = reread_.front();
      reread_.pop_front();
    } else if (!journal_.written(next_check_++)) {
      continue;
    }
    VHOST_RETURN_IF_ERROR(submit(unit, false));
  }
  return absl::OkStatus();
}

bool JournalRun::checked() const {
  return next_check_ == journal_.units() && reread_.empty() && in_flight() == 0;
}

uint64_t JournalRun::checked_bytes() const {
  return (reads_ - reads_before_check_) * journal_.unit_size();
}

absl::Status JournalRun::take(Duration timeout) {
  // All at once: a queue whose ring was replaced takes requests only when none
  // of the old ones is left.
  const size_t count = client_.wait_for(completions_, timeout);
  absl::Status first;
  for (const BlkCompletion& completion : std::span(completions_).first(count)) {
    first.Update(finish(completion));
  }
  return first;
}

absl::Status JournalRun::finish(const BlkCompletion& completion) {
  absl::Status status;
  if (completion.cookie == kFlushCookie) {
    flushing_ = false;
    flushed_ = !outcome_unknown(completion.status);
    status = flushed_ ? annotate(completion.status, "flush") : status;
  } else {
    status = finish(slots_[completion.cookie], completion.status);
    free_.push_back(completion.cookie);
  }
  if (!status.ok()) ++failed_;
  return status;
}

absl::Status JournalRun::finish(Slot& slot, const absl::Status& status) {
  const bool unknown = outcome_unknown(status);
  if (slot.write) {
    journal_.end_write(slot.unit, status.ok());
    if (unknown) rewrite_.push_back(slot.unit);
  } else if (status.ok()) {
    journal_.check(slot.unit, std::span(slot.buffer.data, slot.buffer.size));
    ++reads_;
  } else if (unknown) {
    reread_.push_back(slot.unit);
  }
  // A rewrite must come before anything else does.
  busy_[slot.unit] = unknown && slot.write;
  if (status.ok()) latency_.add(clock_now() - slot.submitted);
  return unknown ? absl::OkStatus()
                 : annotate(status, slot.write ? "write" : "read");
}

}  // namespace vhost::ctl
