// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/disk_worker.h"

#include <utility>
#include <vector>

#include "vhostdev/status.h"

namespace vhost::minivm {

using ctl::JournalRun;

DiskWorker::DiskWorker(EventLoop& loop, DriverDevice& disk,
                       const Workload& workload)
    : Worker(loop, disk.name()), disk_(disk), workload_(workload) {}

JournalRun::Options DiskWorker::journal_options() const {
  const uint64_t unit = JournalRun::unit_for(disk_.config().size_max);
  const uint64_t capacity = disk_.config().capacity_bytes();
  return {.size = workload_.size.value_or(capacity / unit * unit),
          .unit = unit,
          .window = workload_.depth * disk_.options().queues,
          .seed = workload_.seed};
}

uint64_t DiskWorker::memory_needed() const {
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
  absl::Status status = make_client();
  if (status.ok()) status = load();
  if (journal_ != nullptr) publish_report();
  // ORDER: a queue is given back by the thread that acquired it.
  journal_ = nullptr;
  client_ = nullptr;
  return status;
}

// All there is to do, phase by phase.
absl::Status DiskWorker::load() {
  set_state("running");
  const MonotonicTime begun = std::chrono::steady_clock::now();
  bool over = false;
  absl::StatusOr<bool> alive = turn_until(
      [&] { return over && journal_->idle(); },
      [&](Command command) {
        over = over || command == Command::kFinish ||
               (workload_.seconds.has_value() &&
                std::chrono::steady_clock::now() - begun >= *workload_.seconds);
        return journal_->submit_load(!over);
      });
  if (!alive.ok() || !*alive) return alive.status();
  set_state("checking");
  alive = turn_until([&] { return journal_->flushed(); },
                     [&](Command) { return journal_->submit_flush(); });
  if (!alive.ok() || !*alive) return alive.status();
  journal_->begin_check();
  alive = turn_until([&] { return journal_->checked(); },
                     [&](Command) { return journal_->submit_check(); });
  return alive.status();
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

}  // namespace vhost::minivm
