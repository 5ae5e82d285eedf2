// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_FAKE_VMM_H_
#define VHOSTDEV_TESTING_FAKE_VMM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/vring.h"

namespace vhost::testing {

// Guest memory from a memfd, added to `space` at `gpa`.  Null if that does not
// work.
std::shared_ptr<MemoryRegion> add_memory(AddressSpace& space, uint64_t gpa,
                                         uint64_t size,
                                         absl::string_view name = "ram");

// A virtio device whose guest configured its queues: rings lie one behind the
// other in guest memory from `rings_gpa` on, a 64 KiB slot each (rings of up to
// 1024 descriptors), queue i with vector i.
class FakeVirtioDevice final : public VirtioDevice {
 public:
  static constexpr uint64_t kRingSlot = 64 * 1024;  // Bytes.

  struct Options {
    uint32_t device_id = kDeviceIdBlock;
    uint32_t queues = 1;
    uint32_t num = 256;
    RingFormat format = RingFormat::kSplit;
    uint64_t rings_gpa = kRingSlot;  // Not 0: a ring there is none.
  };
  explicit FakeVirtioDevice(Options options);

  // What the guest says of each queue; tests may change it.
  std::vector<VirtqueueConfig> queues;
  uint32_t id;
  bool iommu = false;

  uint32_t device_id() const override { return id; }
  VirtqueueConfig queue(QueueIndex vq) const override;
  bool has_iommu() const override { return iommu; }
};

// The used index of a split ring in guest memory, as its device writes it.
// False if the ring is not in `space`.
bool set_used_index(AddressSpace& space, const VirtqueueConfig& queue,
                    uint16_t value);
bool set_avail_index(AddressSpace& space, const VirtqueueConfig& queue,
                     uint16_t value);
std::optional<uint16_t> used_index(const AddressSpace& space,
                                   const VirtqueueConfig& queue);

// A NotifierBinding that remembers.  Journal: "bind_kicks 0 1", "unbind_kicks
// 0", "bind_calls 0", "unbind_calls 0", "mask 0", "unmask 0", "raise 0".
//
// mask(), unmask() and raise() may come from any thread; the fields are for
// when none does.
class FakeNotifierBinding final : public NotifierBinding {
 public:
  std::vector<std::string> journal;
  absl::Status fail_bind_kicks;  // What the next bind_kicks returns.
  absl::Status fail_bind_calls;
  NotifyMode kicks = NotifyMode::kFd;
  NotifyMode calls = NotifyMode::kFd;

  // Bound now.
  std::map<uint32_t, const EventNotifier*> kick_notifiers;  // By queue.
  std::map<uint32_t, const EventNotifier*> call_notifiers;  // By vector.
  std::set<uint32_t> masked;                                // Vectors.

  // The guest notifies `queue`; false if nothing is bound.
  bool kick(QueueIndex queue);
  // Interrupts of `vector` that reached the guest: raised, or signalled and
  // not masked.  Looking at it delivers what is signalled.
  uint64_t interrupts(VectorIndex vector);

  absl::Status bind_kicks(std::span<const KickBinding> bindings) override;
  void unbind_kicks(std::span<const QueueIndex> queues) override;
  absl::Status bind_calls(std::span<const CallBinding> bindings) override;
  void unbind_calls(std::span<const VectorIndex> vectors) override;
  void mask(VectorIndex vector) override;
  void unmask(VectorIndex vector) override;
  void raise(VectorIndex vector) override;
  NotifyMode kick_mode(QueueIndex) const override { return kicks; }
  NotifyMode call_mode(QueueIndex) const override { return calls; }

 private:
  absl::Mutex mutex_;
  std::map<uint32_t, uint64_t> interrupts_ ABSL_GUARDED_BY(mutex_);
};

// Keeps what the VMM is told.
class RecordingBackendEvents final : public BackendEvents {
 public:
  int config_changes = 0;
  std::vector<std::optional<QueueIndex>> vring_errors;
  std::vector<absl::Status> refused_memory;
  std::vector<absl::Status> broken_with;
  int reconnections = 0;
  std::vector<absl::Status> resets_needed;
  std::vector<absl::Status> gave_up_with;
  int migration_blocker_changes = 0;

  // Runs inside broken(): destroying the device from there is allowed.
  absl::AnyInvocable<void()> on_broken;
  // The same for reconnected(), needs_reset() and gave_up().
  absl::AnyInvocable<void()> on_reconnected;
  absl::AnyInvocable<void()> on_needs_reset;
  absl::AnyInvocable<void()> on_gave_up;

  void config_changed() override { ++config_changes; }
  void vring_error(std::optional<QueueIndex> queue) override {
    vring_errors.push_back(queue);
  }
  void memory_refused(const absl::Status& why) override {
    refused_memory.push_back(why);
  }
  void broken(const absl::Status& why) override;
  void reconnected() override;
  void needs_reset(const absl::Status& why) override;
  void gave_up(const absl::Status& why) override;
  void migration_blockers_changed() override { ++migration_blocker_changes; }
};

// Answers translations from `entries` and keeps what was asked.
class RecordingBackendServices final : public BackendServices {
 public:
  std::vector<IotlbEntry> entries;
  std::vector<uint64_t> translated;              // IOVAs asked for.
  std::vector<uint64_t> failed;                  // Of iotlb_access_failed.
  std::vector<HostNotifierArea> host_notifiers;  // All it was given.
  std::set<uint32_t> doorbells;  // Queues whose area is mapped now.
  absl::Status refuse_host_notifiers;

  // Runs inside translate(): a call from there is refused.
  absl::AnyInvocable<void()> on_translate;

  absl::StatusOr<IotlbEntry> translate(uint64_t iova,
                                       IotlbAccess access) override;
  void iotlb_access_failed(uint64_t iova, IotlbAccess access) override;
  absl::Status set_host_notifier(QueueIndex queue,
                                 HostNotifierArea area) override;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_FAKE_VMM_H_
