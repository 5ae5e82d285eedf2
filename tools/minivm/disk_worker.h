// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_DISK_WORKER_H_
#define TOOLS_MINIVM_DISK_WORKER_H_

#include <memory>
#include <optional>

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
  uint64_t memory_needed() const;

 private:
  absl::Status run() override;
  absl::Status make_client();
  absl::Status load();
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
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_DISK_WORKER_H_
