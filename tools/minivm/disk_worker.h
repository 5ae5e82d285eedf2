// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DISK_WORKER_H_
#define TOOLS_MINIVM_DISK_WORKER_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tools/minivm/driver_device.h"
#include "tools/minivm/worker.h"
#include "tools/vhostctl/journal_run.h"

namespace vhost::minivm {

// Writes and reads one disk, through all of its queues, and checks it.
class DiskWorker final : public Worker {
 public:
  // `disk` runs and outlives the worker.  The driver's memory has
  // memory_needed() bytes reserved.
  DiskWorker(EventLoop& loop, DriverDevice& disk, const Workload& workload);
  uint64_t memory_needed() const override;

 private:
  // What it does, one behind the other.
  enum class Phase : uint8_t { kLoad, kFlush, kCheck };

  absl::Status run() override;
  absl::Status save_running(StateWriter& out) const override;
  absl::Status load_running(StateReader& in) override;
  absl::Status make_client();
  // Each goes on to the next phase, if it was not killed.
  absl::StatusOr<bool> load();
  absl::StatusOr<bool> flush();
  absl::Status run_phases();
  // Submits and takes until `over`; false: it was killed.
  absl::StatusOr<bool> turn_until(
      absl::FunctionRef<bool()> over,
      absl::FunctionRef<absl::Status(Command)> submit);
  absl::Status take();
  void publish_report();

  ctl::JournalRun::Options journal_options() const;

  DriverDevice& disk_;
  const Workload workload_;
  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<BlkClient> client_;
  std::unique_ptr<ctl::JournalRun> journal_;
  std::string first_failure_;
  Phase phase_ = Phase::kLoad;
  bool over_ = false;             // Nothing more is begun.
  std::optional<Duration> left_;  // Of the load, when run() begins.
  std::optional<MonotonicTime> end_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DISK_WORKER_H_
