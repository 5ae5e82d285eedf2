// SPDX-License-Identifier: Apache-2.0
//
// blk verify --reconnect: random writes over any number of deaths of the
// back-end, and a journal of those that were acknowledged.

#include <array>
#include <csignal>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/journal_run.h"
#include "tools/vhostctl/latency.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/progress.h"
#include "tools/vhostctl/verify_report.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// Without --seconds: each unit is written so often, on average.
constexpr uint64_t kWritesPerUnit = 2;
constexpr Duration kForever = Duration::max();

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

// After `error`: until the device has left the buffers alone.
absl::Status drain(JournalRun& run, const absl::Status& error) {
  while (run.in_flight() > 0) run.take(kForever).IgnoreError();
  return error;
}

// Writes and reads at random until `until`, or until that many writes, or until
// it is interrupted.  No write is in doubt when it returns OK.
absl::Status load(JournalRun& run, std::optional<MonotonicTime> until,
                  uint64_t writes) {
  const uint64_t unit = run.journal().unit_size();
  Progress progress("load", until.has_value() ? 0 : writes * unit);
  while (true) {
    const bool over =
        interrupted != 0 ||
        (until.has_value() ? clock_now() >= *until : run.writes() >= writes);
    if (over && run.idle()) return absl::OkStatus();
    const absl::Status submitted = run.submit_load(!over);
    if (!submitted.ok()) return drain(run, submitted);
    const absl::Status taken = run.take(kForever);
    if (!taken.ok()) return drain(run, taken);
    progress.update(run.journal().acknowledged() * unit);
  }
}

// Reads all that was written.
absl::Status check(JournalRun& run) {
  const Journal& journal = run.journal();
  Progress progress("check", journal.units() * journal.unit_size());
  run.begin_check();
  while (true) {
    const absl::Status submitted = run.submit_check();
    if (!submitted.ok()) return drain(run, submitted);
    if (run.checked()) return absl::OkStatus();
    const absl::Status taken = run.take(kForever);
    if (!taken.ok()) return drain(run, taken);
    progress.update(run.checked_bytes());
  }
}

// ---------------------------------------------------------------------------

constexpr std::array<BlockFault, kBlockFaults> kAllFaults = {
    BlockFault::kLost, BlockFault::kStale, BlockFault::kTorn,
    BlockFault::kMisplaced, BlockFault::kDoubled};

Json document_of(const JournalRun& run, const Options& options, uint64_t seed,
                 const BlkSession& disk, Duration took) {
  const Journal& journal = run.journal();
  Json out = Json::object();
  out["bytes"] = run.checked_bytes();
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
      load(run, until, kWritesPerUnit * run.journal().units()));
  if (run.journal().acknowledged() == 0) {
    return absl::CancelledError("interrupted before anything was written");
  }
  VHOST_RETURN_IF_ERROR(flush(disk));
  return check(run);
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
      JournalRun::create((*disk)->client(), (*disk)->memory(),
                         {.size = *size,
                          .unit = JournalRun::unit_for((*disk)->request_size()),
                          .window = (*disk)->window(),
                          .seed = seed});
  if (!run.ok()) return (*disk)->close(annotate(run.status(), "--reconnect"));
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
