// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/disk_worker.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

using ctl::JournalRun;

namespace {

// Bytes of what is loaded, at most.
constexpr size_t kMostText = 4096;
constexpr size_t kMostClientState = size_t{16} << 20;

}  // namespace

DiskWorker::DiskWorker(EventLoop& loop, DriverDevice& disk,
                       const Workload& workload)
    : Worker(loop, disk.name()),
      disk_(disk),
      workload_(workload),
      left_(workload.seconds) {}

JournalRun::Options DiskWorker::journal_options() const {
  const uint64_t unit = JournalRun::unit_for(disk_.config().size_max);
  const uint64_t capacity = disk_.config().capacity_bytes();
  return {.size = workload_.size.value_or(capacity / unit * unit),
          .unit = unit,
          .window = workload_.depth * disk_.options().queues,
          .seed = workload_.seed};
}

uint64_t DiskWorker::memory_needed() const {
  if (journal_ != nullptr) return 0;
  return BlkClient::memory_for(disk_.options().queues, disk_.blk_options()) +
         JournalRun::memory_for(journal_options());
}

// Here, because a queue belongs to the thread that acquires it.
absl::Status DiskWorker::make_client() {
  std::vector<QueueHandle> queues;
  for (uint32_t i = 0; i < disk_.options().queues; ++i) {
    absl::StatusOr<QueueHandle> queue = disk_.driver().acquire(QueueIndex{i});
    if (!queue.ok()) return queue.status();
    queues.push_back(*std::move(queue));
  }
  absl::StatusOr<std::unique_ptr<BlkClient>> client = BlkClient::create(
      disk_.driver(), std::move(queues), disk_.config(), disk_.blk_options());
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  absl::StatusOr<std::unique_ptr<JournalRun>> journal =
      JournalRun::create(*client_, disk_.driver().memory(), journal_options());
  if (!journal.ok()) return journal.status();
  journal_ = *std::move(journal);
  return absl::OkStatus();
}

absl::Status DiskWorker::run() {
  absl::Status status =
      client_ == nullptr ? make_client() : client_->take_over();
  if (left_.has_value()) end_ = std::chrono::steady_clock::now() + *left_;
  if (status.ok()) status = run_phases();
  if (journal_ != nullptr) publish_report();
  // ORDER: a queue is given back by the thread that acquired it.
  journal_ = nullptr;
  client_ = nullptr;
  return status;
}

// All there is to do, phase by phase.
absl::Status DiskWorker::run_phases() {
  absl::StatusOr<bool> alive = true;
  set_state(phase_ == Phase::kLoad ? "running" : "checking");
  if (phase_ == Phase::kLoad) alive = load();
  if (!alive.ok() || !*alive) return alive.status();
  set_state("checking");
  if (phase_ == Phase::kFlush) alive = flush();
  if (!alive.ok() || !*alive) return alive.status();
  return turn_until([&] { return journal_->checked(); },
                    [&](Command) { return journal_->submit_check(); })
      .status();
}

absl::StatusOr<bool> DiskWorker::load() {
  const absl::StatusOr<bool> alive = turn_until(
      [&] { return over_ && journal_->idle(); },
      [&](Command command) {
        over_ = over_ || command == Command::kFinish ||
                (end_.has_value() && std::chrono::steady_clock::now() >= *end_);
        return journal_->submit_load(!over_);
      });
  if (alive.ok() && *alive) phase_ = Phase::kFlush;
  return alive;
}

absl::StatusOr<bool> DiskWorker::flush() {
  const absl::StatusOr<bool> alive =
      turn_until([&] { return journal_->flushed(); },
                 [&](Command) { return journal_->submit_flush(); });
  if (!alive.ok() || !*alive) return alive;
  journal_->begin_check();
  phase_ = Phase::kCheck;
  return alive;
}

absl::StatusOr<bool> DiskWorker::turn_until(
    absl::FunctionRef<bool()> over,
    absl::FunctionRef<absl::Status(Command)> submit) {
  while (!over()) {
    const Command command = gate(journal_->in_flight() == 0);
    if (command == Command::kKill) return false;
    if (command != Command::kHold) VHOST_RETURN_IF_ERROR(submit(command));
    if (journal_->in_flight() != 0) VHOST_RETURN_IF_ERROR(take());
    publish_report();
  }
  return true;
}

absl::Status DiskWorker::take() {
  const absl::Status taken = journal_->take(kTurn);
  // A request that fails is counted; the disk is still there.
  if (!taken.ok() && first_failure_.empty()) {
    first_failure_ = taken.ToString();
  }
  return client_->status();
}

void DiskWorker::publish_report() {
  const ctl::Journal& journal = journal_->journal();
  WorkloadReport report;
  report.reads = journal_->reads();
  report.writes = journal.acknowledged();
  report.verified = journal_->reads() * journal.unit_size();
  report.in_flight = journal_->in_flight();
  report.failed_requests = journal_->failed();
  report.in_doubt = journal.in_doubt();
  report.faults = journal.faults();
  report.first_fault =
      journal.first().empty() ? first_failure_ : journal.first();
  publish(report);
}

// ---------------------------------------------------------------------------

absl::Status DiskWorker::save_running(StateWriter& out) const {
  // It was at a gate: client and journal are there.
  const absl::StatusOr<BlkClientState> client = client_->save();
  if (!client.ok()) return client.status();
  out.bytes(encode(*client));
  out.u8(static_cast<uint8_t>(phase_));
  out.boolean(over_);
  save_time(end_.has_value()
                ? std::optional(*end_ - std::chrono::steady_clock::now())
                : std::nullopt,
            out);
  out.bytes(absl::string_view(first_failure_).substr(0, kMostText));
  journal_->save(out);
  return absl::OkStatus();
}

absl::Status DiskWorker::load_running(StateReader& in) {
  const absl::StatusOr<BlkClientState> state =
      decode_blk_client_state(in.bytes(kMostClientState));
  VHOST_RETURN_IF_ERROR(in.status());
  if (!state.ok()) return state.status();
  const uint8_t phase = in.u8();
  over_ = in.boolean();
  left_ = load_time(in);
  first_failure_ = std::string(in.bytes(kMostText));
  if (phase > static_cast<uint8_t>(Phase::kCheck)) {
    in.refuse(absl::StrCat("phase ", phase));
  }
  VHOST_RETURN_IF_ERROR(in.status());
  phase_ = static_cast<Phase>(phase);
  VHOST_RETURN_IF_ERROR(disk_.set_config(state->config));
  absl::StatusOr<std::unique_ptr<BlkClient>> client =
      BlkClient::restore(disk_.driver(), disk_.blk_options(), *state);
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  absl::StatusOr<std::unique_ptr<JournalRun>> journal = JournalRun::restore(
      *client_, disk_.driver().memory(), journal_options(), in);
  if (!journal.ok()) return journal.status();
  journal_ = *std::move(journal);
  publish_report();
  return absl::OkStatus();
}

}  // namespace vhost::minivm
