// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_KERNEL_OPS_H_
#define BACKENDS_KERNEL_VHOST_KERNEL_OPS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "backends/kernel/ioctl_seam.h"
#include "backends/kernel/kernel_device.h"
#include "vhostdev/batch_steps.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// What all of the kernel's back-ends have in common: one or more open devices
// that together are one virtio device.  What concerns the whole device goes to
// all of them or, if one refuses, to none.  Everything completes in submit().
//
//   vhost_kernel_ops.cc  opening, losing, the loop
//   kernel_verbs.cc      the verbs
//   kernel_memory.cc     memory, log
//   kernel_iotlb.cc      translations, where the device is behind an IOMMU
//
// How rings are set going and stopped is the device class's own.
class VhostKernelOps : public VhostOps {
 public:
  ~VhostKernelOps() override;

  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override;
  void pump(MonotonicTime deadline) override;
  void close(const absl::Status& why) override;
  BackendCounters counters() const override { return counters_; }

 protected:
  struct Layout {
    std::string label;  // "vhost-net".
    std::vector<VhostDeviceFile> files;
    uint32_t queues_per_device = 2;
    Duration busyloop{};
    VhostWorkerThread worker_thread = VhostWorkerThread::kDefault;
  };
  struct Queue {
    bool started = false;     // Its kick is set, until it is harvested.
    bool big_endian = false;  // The kernel was told so.
    UniqueFd kick;            // To kick it after a change of memory.
    VringAddresses addr;
  };

  VhostKernelOps(Layout layout, KernelSystem system);

  // -- The device class's part ---------------------------------------------

  // `device` was opened and is owned.
  virtual absl::Status prepare(KernelDevice& device) = 0;
  // After all devices: what of the offer the guest may see.
  virtual absl::Status choose_features(FeatureSet& offered) = 0;
  // What the kernel is told where the guest accepted `features`.
  virtual FeatureSet kernel_features(FeatureSet features) const {
    return features;
  }
  // The rings are kicked: they begin to be served, where enabled.
  virtual void set_going(const Go& verb, BatchSteps& steps) = 0;
  virtual void halt(const Quiesce& verb, BatchSteps& steps) = 0;
  // `vq` is not served any more when it returns: its base does not move.
  virtual absl::Status halt_for_harvest(BackendQueue vq) = 0;
  // `vq` was harvested.
  virtual void forget(BackendQueue vq) = 0;
  virtual void resume(BatchSteps& steps) = 0;
  virtual void enable(const SetQueuesEnabled& verb, BatchSteps& steps);
  virtual absl::Status set_guest_cid(uint64_t cid);
  // The devices are closed, or forgot all they were told.
  virtual void devices_gone() = 0;

  // -- What it is made with ------------------------------------------------

  bool has(BackendQueue vq) const { return to_int(vq) < queues_.size(); }
  absl::Status check_queue(BackendQueue vq) const;
  KernelDevice& device_of(BackendQueue vq) {
    return devices_[to_int(vq) / layout_.queues_per_device];
  }
  std::vector<KernelDevice>& devices() { return devices_; }
  Queue& queue(BackendQueue vq) { return queues_[to_int(vq)]; }
  const Layout& layout() const { return layout_; }
  BackendTraits& mutable_traits() { return traits_; }

  // Makes `change` of every device; if one refuses, `undo` of those before it.
  // kUnavailable where that fails too: half of the device is changed, and it
  // is closed as if it were lost.
  using OneDevice = absl::FunctionRef<absl::Status(KernelDevice&)>;
  absl::Status fan_out(OneDevice change, OneDevice undo);

  // Makes `request` of `device`.  Behind an IOMMU a ring without translations
  // is refused, and asked for: what was asked is answered, and it is tried
  // again for as long as there were answers.
  absl::Status with_translations(KernelDevice& device, OneDevice request);

 private:
  void run(const Open& verb, BatchSteps& steps);
  void run(const SetFeatures& verb, BatchSteps& steps);
  void run(const Configure& verb, BatchSteps& steps);
  void run(const Go& verb, BatchSteps& steps);
  void run(const DriverOk& verb, BatchSteps& steps);
  void run(const Quiesce& verb, BatchSteps& steps);
  void run(const Harvest& verb, BatchSteps& steps);
  void run(const Resume& verb, BatchSteps& steps);
  void run(const ResetStatus& verb, BatchSteps& steps);
  void run(const SetQueuesEnabled& verb, BatchSteps& steps);
  void run(const UpdateMemory& verb, BatchSteps& steps);
  void run(const SetCalls& verb, BatchSteps& steps);
  void run(const SetLog& verb, BatchSteps& steps);
  void run(const SetRingLogging& verb, BatchSteps& steps);
  void run(const UpdateIotlb& verb, BatchSteps& steps);
  void run(const ResetOwner& verb, BatchSteps& steps);
  void run(const SetGuestCid& verb, BatchSteps& steps);
  template <typename Other>
  void run(const Other& verb, BatchSteps& steps) {
    refuse(verb_name(Verb(verb)), steps);
  }
  void refuse(absl::string_view verb, BatchSteps& steps) const;

  // Opening (vhost_kernel_ops.cc).
  absl::Status open_all();
  absl::StatusOr<std::unique_ptr<VhostFile>> open_file(VhostDeviceFile& file);
  // What all devices offer, those before included.
  struct Offer {
    FeatureSet features = FeatureSet::from_words(~uint64_t{0}, ~uint64_t{0});
    uint64_t backend_features = ~uint64_t{0};
  };
  absl::Status own(KernelDevice& device, BackendQueue first, Offer& offer);
  void forget_everything();
  void drop_devices();
  void lose(const absl::Status& why);

  // Verbs (kernel_verbs.cc).
  absl::Status set_features(const SetFeatures& verb);
  absl::Status leave_iotlb_mode();
  void configure_queue(const VringSetup& setup, BatchSteps& steps);
  absl::Status set_addr(const VringSetup& setup);
  absl::Status set_byte_order(const VringSetup& setup);
  absl::StatusOr<int> notifier_fd(NotifyRef ref) const;
  absl::Status set_call(BackendQueue vq, NotifyRef ref);
  absl::Status set_err(BackendQueue vq, NotifyRef ref);
  absl::Status set_kick(BackendQueue vq, NotifyRef ref);
  absl::Status harvest(BackendQueue vq, uint32_t& base);

  // Memory and log (kernel_memory.cc).
  enum class MayBeEmpty : uint8_t { kNo, kYes };
  absl::Status set_memory(const MemoryDiff& diff, MayBeEmpty may_be_empty);
  absl::Status check_rings_stay(std::span<const MemoryTableEntry> table) const;
  absl::Status set_log(const LogArea& log);
  void kick_started();

  // Translations (kernel_iotlb.cc).
  absl::Status send_to_all(const UpdateIotlb& update);
  absl::Status send_to_rings(const UpdateIotlb& update,
                             std::span<const VringSetup> coming);
  absl::StatusOr<bool> answer_misses(KernelDevice& device);
  absl::StatusOr<bool> answer_miss(KernelDevice& device,
                                   const IotlbRequest& request);
  absl::Status forget_translations();
  absl::Status give_ring_translations();
  void keep_pieces(const UpdateIotlb& update,
                   std::map<uint64_t, UpdateIotlb>& kept) const;
  bool touches_ring(const IotlbEntry& entry) const;
  void note_translation(const UpdateIotlb& update);
  void watch_devices();
  void serve(size_t device);

  Layout layout_;
  KernelSystem system_;
  BackendTraits traits_;
  BackendCounters counters_;
  std::vector<KernelDevice> devices_;
  std::vector<std::unique_ptr<EventLoop::Watch>> watches_;  // As devices_.
  std::vector<Queue> queues_;
  EventLoop* loop_ = nullptr;
  BackendSink* sink_ = nullptr;
  // Gone with the ops: whoever is told something may destroy them.
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
  uint64_t max_regions_ = 0;  // Read at the first Open.

  // What all devices have been told, for a roll-back.
  FeatureSet features_;
  std::shared_ptr<const MemorySnapshot> memory_;  // Null: none.
  std::vector<std::byte> table_;
  uint64_t log_base_ = 0;
  UniqueFd log_event_;

  // Behind an IOMMU.
  bool iommu_ = false;             // ACCESS_PLATFORM is accepted.
  bool iotlb_mode_ = false;        // It was, since the devices were opened.
  uint64_t backend_features_ = 0;  // Offered by all.
  IotlbVersion iotlb_version_ = IotlbVersion::kOne;
  // Of rings, by iova: what must not be lost with other memory.
  std::map<uint64_t, UpdateIotlb> ring_translations_;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_KERNEL_OPS_H_
