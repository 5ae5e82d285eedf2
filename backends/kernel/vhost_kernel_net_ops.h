// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_KERNEL_NET_OPS_H_
#define BACKENDS_KERNEL_VHOST_KERNEL_NET_OPS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "backends/kernel/ioctl_seam.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

struct KernelNetOptions {
  std::string path = "/dev/vhost-net";
  // The tap of each queue pair: IFF_VNET_HDR, its header as long as the
  // guest's.  Back-end queues 2i and 2i + 1 receive from and send to taps[i].
  std::vector<UniqueFd> taps;
  // The module's max_mem_regions.
  uint64_t max_memory_slots = 64;
  VhostFileOpener open = open_vhost_file;
};

// vhost-net: one open device for each queue pair, because the kernel's has two
// rings.  What concerns the whole device goes to all of them or, if one
// refuses, to none.  Everything completes inside submit().
//
// A queue is enabled while its tap is attached (VHOST_NET_SET_BACKEND); Quiesce
// detaches it, after which the kernel has finished what it began.
//
// Next: the device IOTLB (until then ACCESS_PLATFORM is not offered), feature
// bits from 64 on, busy polling and worker threads, rings of the other byte
// order, and a public factory.
// Source: linux/vhost.h.
class VhostKernelNetOps final : public VhostOps {
 public:
  explicit VhostKernelNetOps(KernelNetOptions options);
  ~VhostKernelNetOps() override;

  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop*, BackendSink* sink) override { sink_ = sink; }
  void pump(MonotonicTime) override {}
  void close(const absl::Status&) override { files_.clear(); }
  BackendCounters counters() const override { return counters_; }

 private:
  struct Queue {
    bool started = false;   // Its kick is set.
    bool attached = false;  // Its tap is.
    bool resume = false;    // It was attached when it was quiesced.
  };
  class Steps;

  void run(const Open& verb, Steps& steps);
  void run(const SetFeatures& verb, Steps& steps);
  void run(const Configure& verb, Steps& steps);
  void run(const Go& verb, Steps& steps);
  void run(const DriverOk& verb, Steps& steps);
  void run(const Quiesce& verb, Steps& steps);
  void run(const Harvest& verb, Steps& steps);
  void run(const Resume& verb, Steps& steps);
  void run(const ResetStatus& verb, Steps& steps);
  void run(const SetQueuesEnabled& verb, Steps& steps);
  void run(const UpdateMemory& verb, Steps& steps);
  void run(const SetCalls& verb, Steps& steps);
  void run(const SetLog& verb, Steps& steps);
  void run(const SetRingLogging& verb, Steps& steps);
  template <typename Other>
  void run(const Other& verb, Steps& steps);

  absl::Status open_all();
  absl::Status call(VhostFile& file, unsigned long request,
                    absl::string_view name, void* arg);
  absl::Status queue_call(BackendQueue vq, unsigned long request,
                          absl::string_view name, void* arg);
  // Makes `request` of every device; if one refuses, those before it get
  // `undo` in its place.
  absl::Status fan_out(unsigned long request, absl::string_view name, void* arg,
                       void* undo);
  absl::Status set_features(FeatureSet features);
  absl::Status set_memory(const MemoryDiff& diff);
  absl::Status set_log(const LogArea& log);
  absl::Status set_num(const VringSetup& setup);
  absl::Status set_base(const VringSetup& setup);
  absl::Status set_addr(const VringSetup& setup);
  absl::Status set_notifier(BackendQueue vq, unsigned long request,
                            absl::string_view name, NotifyRef ref);
  absl::Status attach_tap(BackendQueue vq, bool on);
  absl::Status harvest(BackendQueue vq, uint32_t& base);
  bool has(BackendQueue vq) const { return to_int(vq) < queues_.size(); }

  KernelNetOptions options_;
  BackendTraits traits_;
  BackendCounters counters_;
  std::vector<std::unique_ptr<VhostFile>> files_;  // By queue pair.
  std::vector<Queue> queues_;
  BackendSink* sink_ = nullptr;
  // Gone with the ops: a completion may destroy them.
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
  // What all devices have, for a roll-back.
  uint64_t features_ = 0;
  std::vector<std::byte> table_;
  uint64_t log_base_ = 0;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_KERNEL_NET_OPS_H_
