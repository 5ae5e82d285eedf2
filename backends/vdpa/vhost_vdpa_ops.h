// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VHOST_VDPA_OPS_H_
#define BACKENDS_VDPA_VHOST_VDPA_OPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backends/vdpa/vdpa_device.h"
#include "backends/vdpa/vdpa_file.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

struct VdpaOptions {
  std::string path = "/dev/vhost-vdpa-0";
  VdpaFileOpener open = open_vdpa_file;
};

// A vhost-vdpa device.  Guest memory is mapped at IOVA = guest physical
// address, one range for each entry of the table, and stays mapped over a stop
// as far as VhostDev is concerned.  Quiesce suspends the device; without
// SUSPEND it is reset and its bases are unknown.  Everything completes inside
// submit(), which blocks while memory is pinned.
//
// Next: resuming in place, address spaces for an isolated control queue, a
// vIOMMU's translations, packed rings (until then RING_PACKED is not offered),
// notification areas, shadow virtqueues for migration, and a public factory.
// Source: linux/vhost.h.
class VhostVdpaOps final : public VhostOps {
 public:
  explicit VhostVdpaOps(VdpaOptions options);
  ~VhostVdpaOps() override;

  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop*, BackendSink* sink) override { sink_ = sink; }
  void pump(MonotonicTime) override {}
  void close(const absl::Status&) override { device_.reset(); }
  BackendCounters counters() const override;

 private:
  struct Queue {
    bool started = false;  // Its kick is set.
    VringBase base{};      // As configured.
  };
  class Steps;

  void run(const Open& verb, Steps& steps);
  void run(const SetFeatures& verb, Steps& steps);
  void run(const Configure& verb, Steps& steps);
  void run(const Go& verb, Steps& steps);
  void run(const DriverOk& verb, Steps& steps);
  void run(const Quiesce& verb, Steps& steps);
  void run(const Harvest& verb, Steps& steps);
  void run(const ResetStatus& verb, Steps& steps);
  void run(const ResetDevice& verb, Steps& steps);
  void run(const SetQueuesEnabled& verb, Steps& steps);
  void run(const UpdateMemory& verb, Steps& steps);
  void run(const SetCalls& verb, Steps& steps);
  void run(const GetConfig& verb, Steps& steps);
  void run(const SetConfig& verb, Steps& steps);
  void run(const SetConfigCall& verb, Steps& steps);
  template <typename Other>
  void run(const Other& verb, Steps& steps);

  absl::Status open_device();
  absl::Status set_features(FeatureSet features);
  void change_memory(const MemoryDiff& diff, Steps& steps);
  absl::Status set_state(BackendQueue vq, unsigned long request,
                         absl::string_view name, uint32_t value);
  absl::Status set_base(const VringSetup& setup);
  absl::Status set_addr(const VringSetup& setup);
  absl::Status set_notifier(BackendQueue vq, unsigned long request,
                            absl::string_view name, NotifyRef ref);
  absl::Status enable(BackendQueue vq, bool on);
  absl::Status started(BackendQueue vq) const;
  absl::Status suspend();
  absl::Status harvest(BackendQueue vq, std::optional<VringBase>& base);
  absl::Status read_config(uint32_t offset, uint32_t size,
                           std::vector<std::byte>& bytes);
  absl::Status reset();
  void forget_queues();
  bool has(BackendQueue vq) const { return to_int(vq) < queues_.size(); }

  VdpaOptions options_;
  BackendTraits traits_;
  std::unique_ptr<VdpaDevice> device_;  // Null: closed.
  VdpaFacts facts_;
  std::vector<Queue> queues_;
  bool suspended_ = false;
  bool bases_lost_ = false;  // The device was reset while it ran.
  BackendSink* sink_ = nullptr;
  // Gone with the ops: a completion may destroy them.
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VHOST_VDPA_OPS_H_
