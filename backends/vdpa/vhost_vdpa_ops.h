// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VHOST_VDPA_OPS_H_
#define BACKENDS_VDPA_VHOST_VDPA_OPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backends/vdpa/recorded_vdpa_file.h"
#include "backends/vdpa/vdpa_device.h"
#include "backends/vdpa/vdpa_file.h"
#include "vhostdev/batch_steps.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost {

// A vhost-vdpa device.  Guest memory is mapped at IOVA = guest physical
// address, one range for each entry of the table, and stays mapped over a stop
// as far as VhostDev is concerned.  Quiesce suspends the device; without
// SUSPEND it is reset and its bases are unknown.  Everything completes inside
// submit(), which blocks while memory is pinned.
// Source: linux/vhost.h.
class VhostVdpaOps final : public VhostOps {
 public:
  VhostVdpaOps(VhostVdpaOptions options, VdpaFileOpener open);
  ~VhostVdpaOps() override;

  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop*, BackendSink* sink) override { sink_ = sink; }
  void pump(MonotonicTime) override {}
  void close(const absl::Status& why) override;
  std::vector<std::string> recent() const override;
  BackendCounters counters() const override;
  std::vector<RequestStats> request_stats() const override {
    return log_.stats();
  }

 private:
  struct Queue {
    bool started = false;    // Its kick is set.
    bool harvested = false;  // Started until it was harvested.
    VringBase base{};        // As configured.
  };

  void run(const Open& verb, BatchSteps& steps);
  void run(const SetFeatures& verb, BatchSteps& steps);
  void run(const Configure& verb, BatchSteps& steps);
  void run(const Go& verb, BatchSteps& steps);
  void run(const DriverOk& verb, BatchSteps& steps);
  void run(const Quiesce& verb, BatchSteps& steps);
  void run(const Harvest& verb, BatchSteps& steps);
  void run(const Resume& verb, BatchSteps& steps);
  void run(const ResetStatus& verb, BatchSteps& steps);
  void run(const ResetDevice& verb, BatchSteps& steps);
  void run(const SetQueuesEnabled& verb, BatchSteps& steps);
  void run(const UpdateMemory& verb, BatchSteps& steps);
  void run(const SetCalls& verb, BatchSteps& steps);
  void run(const GetConfig& verb, BatchSteps& steps);
  void run(const SetConfig& verb, BatchSteps& steps);
  void run(const SetConfigCall& verb, BatchSteps& steps);
  void run(const GetHostNotifiers& verb, BatchSteps& steps);
  template <typename Other>
  void run(const Other& verb, BatchSteps& steps);

  // The whole device.
  absl::Status open_device();
  void note_traits();
  absl::Status set_features(FeatureSet features);
  absl::Status change_memory(const MemoryDiff& diff, BatchSteps& steps);
  absl::Status read_config(uint32_t offset, uint32_t size,
                           std::vector<std::byte>& bytes);
  absl::Status write_config(const SetConfig& verb);
  absl::Status reset();
  void forget_queues();

  // Queues: vdpa_queues.cc.
  absl::Status known(BackendQueue vq) const;
  absl::Status started(BackendQueue vq) const;
  absl::Status set_state(BackendQueue vq, unsigned long request,
                         absl::string_view name, uint32_t value);
  absl::Status set_base(const VringSetup& setup);
  absl::Status set_addr(const VringSetup& setup);
  absl::Status set_notifier(BackendQueue vq, unsigned long request,
                            absl::string_view name, NotifyRef ref);
  absl::Status enable(BackendQueue vq, bool on);
  absl::Status suspend();
  absl::Status harvest(BackendQueue vq, std::optional<VringBase>& base);

  const VhostVdpaOptions options_;
  VdpaFileOpener open_;
  BackendTraits traits_;
  CallLog log_{vdpa_call_names()};      // Outlives the device.
  std::unique_ptr<VdpaDevice> device_;  // Null: closed.
  absl::Status closed_because_;
  std::vector<Queue> queues_;
  bool bases_lost_ = false;  // The device was reset while it ran.
  uint64_t calls_ = 0;       // Of devices that were closed.
  BackendSink* sink_ = nullptr;
  // Gone with the ops: a completion may destroy them.
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VHOST_VDPA_OPS_H_
