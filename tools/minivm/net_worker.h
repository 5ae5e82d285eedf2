// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_NET_WORKER_H_
#define TOOLS_MINIVM_NET_WORKER_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "tools/minivm/driver_device.h"
#include "tools/minivm/worker.h"
#include "tools/vhostctl/net_echo.h"

namespace vhost::minivm {

// Sends frames from one net to another and back, or from one to the interface
// of its tap and back.  A frame that is lost is no fault: it is a network.
class NetWorker final : public Worker {
 public:
  // `far` null: `near` is a tap's.  Both run and outlive the worker.  The
  // driver's memory has memory_needed() bytes reserved.
  NetWorker(EventLoop& loop, DriverDevice& near, DriverDevice* far,
            const Workload& workload);
  uint64_t memory_needed() const override;

 private:
  absl::Status run() override;
  absl::Status save_running(StateWriter& out) const override;
  absl::Status load_running(StateReader& in) override;
  absl::Status take_over();
  absl::Status make_clients();
  absl::Status send_all();
  absl::StatusOr<std::unique_ptr<ctl::NetEcho>> make_echo(uint64_t burst);
  // Some frames, there and back, one at a time and to the end.
  absl::Status run_burst(uint64_t burst);
  absl::Status lost() const;
  void count(const ctl::EchoCounts& counts);

  DriverDevice& near_;
  DriverDevice* const far_;
  const Workload workload_;
  std::unique_ptr<NetClient> near_client_;
  std::unique_ptr<NetClient> far_client_;
  WorkloadReport report_;
  uint64_t burst_ = 0;            // The next one.
  std::optional<Duration> left_;  // When run() begins.
  std::optional<MonotonicTime> end_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_NET_WORKER_H_
