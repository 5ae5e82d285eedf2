// SPDX-License-Identifier: Apache-2.0
//
// blk verify --reconnect: random writes over any number of deaths of the
// back-end, and a journal of those that were acknowledged.

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/journal.h"
#include "tools/vhostctl/latency.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/pattern.h"
#include "tools/vhostctl/progress.h"
#include "tools/vhostctl/verify_report.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr uint64_t kUnit = 4096;  // Bytes of a request, at most.
constexpr uint64_t kMostUnits = uint64_t{4} << 20;
// Without --seconds: each unit is written so often, on average.
constexpr uint64_t kWritesPerUnit = 2;
// One request in so many is a read.
constexpr uint32_t kReadShare = 4;
// Buffers per request in flight: one that is done is not used again at once, so
// that a back-end which carries it out once more writes old data.
constexpr size_t kBuffersPerRequest = 2;
constexpr std::byte kUnread{0xdb};

// Ctrl-C ends the load, once; what it did is then checked.
volatile std::sig_atomic_t interrupted = 0;

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  // ORDER: a second one ends the program; waiting calls return early.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
}

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

// The load, then the check.  Never are two requests of one unit in flight: the
// order of two writes would be the device's choice.
class JournalRun {
 public:
  static absl::StatusOr<std::unique_ptr<JournalRun>> create(BlkSession& disk,
                                                            uint64_t size,
                                                            uint64_t seed);

  // Writes and reads at random until `until`, or until that many writes, or
  // until it is interrupted.  No write is in doubt when it returns OK.
  // Errors: as BlkCompletion, but for outcome_unknown().
  absl::Status load(std::optional<MonotonicTime> until, uint64_t writes);
  // Reads all that was written.
  absl::Status check();

  const Journal& journal() const { return journal_; }
  const LatencyHistogram& latency() const { return latency_; }
  uint64_t reads() const { return reads_; }
  // Read in check().
  uint64_t checked() const { return checked_; }

 private:
  struct Slot {
    DmaSpan buffer;
    uint64_t unit = 0;
    bool write = false;
    MonotonicTime submitted;
  };

  JournalRun(BlkSession& disk, uint64_t size, uint64_t seed)
      : disk_(disk),
        journal_(size / unit_of(disk), static_cast<uint32_t>(unit_of(disk)),
                 seed),
        busy_(journal_.units()),
        // Half of the units at most: the other half is to choose from.
        window_(std::min<uint64_t>(disk.window(), (journal_.units() + 1) / 2)),
        random_(seed) {}

  static uint64_t unit_of(const BlkSession& disk) {
    return std::min(kUnit, disk.request_size());
  }

  uint64_t pick();
  absl::Status submit(uint64_t unit, bool write);
  absl::Status submit_next();
  // Waits for some requests.
  absl::Status wait();
  absl::Status finish(Slot& slot, const absl::Status& status);
  absl::Status drain(const absl::Status& error);

  BlkSession& disk_;
  Journal journal_;
  DmaBuffer memory_;
  std::vector<Slot> slots_;
  std::vector<BlkCompletion> completions_;  // Room for all.
  std::deque<size_t> free_;                 // Longest unused first.
  std::vector<bool> busy_;                  // Units with a request in flight.
  const uint64_t window_;
  std::deque<uint64_t> rewrite_;  // Units with a write in doubt.
  std::deque<uint64_t> reread_;   // Units whose read came to nothing.
  std::mt19937_64 random_;
  LatencyHistogram latency_;
  uint64_t writes_ = 0;  // Submitted.
  uint64_t reads_ = 0;   // Compared.
  uint64_t checked_ = 0;
};

absl::StatusOr<std::unique_ptr<JournalRun>> JournalRun::create(BlkSession& disk,
                                                               uint64_t size,
                                                               uint64_t seed) {
  const uint64_t unit = unit_of(disk);
  if (size / unit > kMostUnits) {
    return absl::InvalidArgumentError(
        absl::StrCat("size of ", size, " bytes: --reconnect takes up to ",
                     human_bytes(kMostUnits * unit), "; see --size"));
  }
  if (size % unit != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "size of ", size, " bytes: --reconnect needs a multiple of ", unit,
        "; see --size"));
  }
  if (size < unit) {
    return absl::InvalidArgumentError(absl::StrCat(
        "size of ", size, " bytes: less than a request of ", unit));
  }
  std::unique_ptr<JournalRun> out(new JournalRun(disk, size, seed));
  const size_t count = kBuffersPerRequest * out->window_;
  absl::StatusOr<DmaBuffer> memory = disk.memory().allocate(unit * count, 4096);
  if (!memory.ok()) return memory.status();
  out->memory_ = *std::move(memory);
  out->slots_.resize(count);
  out->completions_.resize(out->window_);
  for (size_t i = 0; i < count; ++i) {
    out->slots_[i].buffer = out->memory_.span().subspan(i * unit, unit);
    out->free_.push_back(i);
  }
  return out;
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
      disk_.client().submit({.op = write ? BlkOp::kWrite : BlkOp::kRead,
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

absl::Status JournalRun::wait() {
  // All at once: a queue whose ring was replaced takes requests only when none
  // of the old ones is left.
  const size_t count = disk_.client().wait(completions_);
  absl::Status first;
  for (const BlkCompletion& completion : std::span(completions_).first(count)) {
    first.Update(finish(slots_[completion.cookie], completion.status));
    free_.push_back(completion.cookie);
  }
  return first;
}

// After `error`: until the device has left the buffers alone.
absl::Status JournalRun::drain(const absl::Status& error) {
  while (disk_.client().in_flight() > 0) wait().IgnoreError();
  return error;
}

absl::Status JournalRun::load(std::optional<MonotonicTime> until,
                              uint64_t writes) {
  Progress progress("load", until.has_value() ? 0 : writes * kUnit);
  while (true) {
    const bool over =
        interrupted != 0 ||
        (until.has_value() ? clock_now() >= *until : writes_ >= writes);
    if (over && rewrite_.empty() && disk_.client().in_flight() == 0) break;
    while (disk_.client().in_flight() < window_ &&
           (!over || !rewrite_.empty())) {
      const absl::Status submitted = submit_next();
      if (!submitted.ok()) return drain(submitted);
    }
    const absl::Status waited = wait();
    if (!waited.ok()) return drain(waited);
    progress.update(journal_.acknowledged() * kUnit);
  }
  reread_.clear();
  return absl::OkStatus();
}

absl::Status JournalRun::check() {
  Progress progress("check", journal_.units() * journal_.unit_size());
  const uint64_t before = reads_;
  uint64_t next = 0;
  while (true) {
    while (disk_.client().in_flight() < window_ &&
           (next < journal_.units() || !reread_.empty())) {
      uint64_t unit = next;
      if (!reread_.empty()) {
        unit = reread_.front();
        reread_.pop_front();
      } else if (!journal_.written(next++)) {
        continue;
      }
      const absl::Status submitted = submit(unit, false);
      if (!submitted.ok()) return drain(submitted);
    }
    if (disk_.client().in_flight() == 0) break;
    const absl::Status waited = wait();
    if (!waited.ok()) return drain(waited);
    checked_ = (reads_ - before) * journal_.unit_size();
    progress.update(checked_);
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------

constexpr std::array<BlockFault, kBlockFaults> kAllFaults = {
    BlockFault::kLost, BlockFault::kStale, BlockFault::kTorn,
    BlockFault::kMisplaced, BlockFault::kDoubled};

Json document_of(const JournalRun& run, const Options& options, uint64_t seed,
                 const BlkSession& disk, Duration took) {
  const Journal& journal = run.journal();
  Json out = Json::object();
  out["bytes"] = run.checked();
  out["mismatches"] = journal.mismatches();
  for (const BlockFault fault : kAllFaults) {
    out[std::string(to_string(fault))] = journal.count(fault);
  }
  if (journal.mismatches() > 0) out["first_mismatch"] = journal.first();
  out["writes"] = journal.acknowledged();
  out["reads"] = run.reads();
  out["in_doubt"] = journal.in_doubt();
  out["reconnections"] = disk.outages().reconnections();
  out["needs_resets"] = disk.outages().needs_resets();
  out["longest_outage_us"] = in_us(disk.outages().longest());
  out["seconds"] = in_seconds(took);
  out["latency_us"] = latency_json(run.latency());
  out["seed"] = seed;
  out["queues"] = options.queues;
  out["depth"] = options.depth;
  out["request_bytes"] = journal.unit_size();
  return out;
}

std::string text_of(const JournalRun& run, const Options& options,
                    uint64_t seed, const BlkSession& disk) {
  const Journal& journal = run.journal();
  std::string faults;
  for (const BlockFault fault : kAllFaults) {
    absl::StrAppend(&faults, faults.empty() ? "" : ", ", journal.count(fault),
                    " ", to_string(fault));
  }
  const LatencyHistogram& latency = run.latency();
  return absl::StrFormat(
      "verified:   %u writes of %s, %u reads through %u queues at depth %u, "
      "seed %u\n"
      "outages:    %u reconnections, %u with a reset, the longest %.1f ms\n"
      "in doubt:   %u writes, written again\n"
      "mismatches: %u (%s)\n"
      "latency:    min %.1f us, p50 %.1f us, p99 %.1f us, max %.1f us\n",
      journal.acknowledged(), human_bytes(journal.unit_size()), run.reads(),
      options.queues, options.depth, seed, disk.outages().reconnections(),
      disk.outages().needs_resets(), in_us(disk.outages().longest()) / 1000,
      journal.in_doubt(), journal.mismatches(), faults, in_us(latency.min()),
      in_us(latency.percentile(50)), in_us(latency.percentile(99)),
      in_us(latency.max()));
}

// Makes durable what was written, whatever becomes of the back-end meanwhile.
absl::Status flush(BlkSession& disk) {
  if (!disk.config().flush) return absl::OkStatus();
  absl::Status flushed = disk.flush();
  while (outcome_unknown(flushed)) flushed = disk.flush();
  return flushed;
}

absl::Status load_and_check(BlkSession& disk, JournalRun& run,
                            const Options& options) {
  std::optional<MonotonicTime> until;
  if (options.seconds.has_value()) until = clock_now() + *options.seconds;
  VHOST_RETURN_IF_ERROR(
      run.load(until, kWritesPerUnit * run.journal().units()));
  if (run.journal().acknowledged() == 0) {
    return absl::CancelledError("interrupted before anything was written");
  }
  VHOST_RETURN_IF_ERROR(flush(disk));
  return run.check();
}

}  // namespace

absl::Status run_blk_verify_reconnect(const Options& options) {
  catch_interrupts();
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  const absl::StatusOr<uint64_t> size = size_to_verify(**disk, options);
  if (!size.ok()) return (*disk)->close(size.status());
  const uint64_t seed = options.seed.value_or(random_seed());
  absl::StatusOr<std::unique_ptr<JournalRun>> run =
      JournalRun::create(**disk, *size, seed);
  if (!run.ok()) return (*disk)->close(run.status());
  const MonotonicTime begun = clock_now();
  const absl::Status done = load_and_check(**disk, **run, options);
  const Duration took = clock_now() - begun;
  const absl::Status closed = (*disk)->close(done);
  // What was found out before an error is worth something.
  VHOST_RETURN_IF_ERROR(
      options.json ? print_json(document_of(**run, options, seed, **disk, took))
                   : print_text(text_of(**run, options, seed, **disk)));
  VHOST_RETURN_IF_ERROR(closed);
  const Journal& journal = (*run)->journal();
  if (journal.mismatches() == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(journal.mismatches(), " blocks differ: ", journal.first()));
}

}  // namespace vhost::ctl
