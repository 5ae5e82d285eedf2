// SPDX-License-Identifier: Apache-2.0
#ifndef DOCS_EXAMPLES_EMBED_VM_DISK_H_
#define DOCS_EXAMPLES_EMBED_VM_DISK_H_

#include <absl/status/status.h>
#include <vhostdev/backend_services.h>
#include <vhostdev/event_notifier.h>
#include <vhostdev/split_virtqueue.h>
#include <vhostdev/virtio_device.h>
#include <vhostdev/vring.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

// A VMM's virtio-blk device with four queues.  Where a VMM would ask its
// transport's registers and KVM, this one has its rings at fixed addresses, and
// keeps the notifiers for a guest that lives in this process.
class VmDisk final : public vhost::VirtioDevice,
                     public vhost::NotifierBinding,
                     public vhost::BackendEvents {
 public:
  static constexpr uint32_t kQueues = 4;
  static constexpr uint32_t kRingSize = 128;

  // What broke the device, if anything did.
  std::optional<absl::Status> lost;

  // The guest's ends: to kick the device, and to be called by it; null while
  // the device does not run.
  const vhost::EventNotifier* kick(uint32_t queue) const {
    return kicks_[queue];
  }
  const vhost::EventNotifier* call(uint32_t queue) const {
    return calls_[queue];
  }

  uint32_t device_id() const override { return 2; }  // virtio-blk

  vhost::VirtqueueConfig queue(vhost::QueueIndex vq) const override {
    constexpr vhost::SplitRingLayout layout =
        vhost::split_ring_layout(kRingSize);
    const uint64_t at = 0x10'0000 + to_int(vq) * layout.total;
    vhost::VirtqueueConfig config;
    config.num = kRingSize;
    config.desc_gpa = at;
    config.avail_gpa = at + layout.avail_offset;
    config.used_gpa = at + layout.used_offset;
    config.vector = vhost::VectorIndex{to_int(vq)};
    return config;
  }

  absl::Status bind_kicks(std::span<const vhost::KickBinding> kicks) override {
    for (const vhost::KickBinding& kick : kicks) {
      kicks_[to_int(kick.queue)] = kick.notifier;
    }
    return absl::OkStatus();
  }
  void unbind_kicks(std::span<const vhost::QueueIndex> queues) override {
    for (const vhost::QueueIndex queue : queues) {
      kicks_[to_int(queue)] = nullptr;
    }
  }
  absl::Status bind_calls(std::span<const vhost::CallBinding> calls) override {
    for (const vhost::CallBinding& call : calls) {
      calls_[to_int(call.vector)] = call.notifier;
    }
    return absl::OkStatus();
  }
  void unbind_calls(std::span<const vhost::VectorIndex> vectors) override {
    for (const vhost::VectorIndex vector : vectors) {
      calls_[to_int(vector)] = nullptr;
    }
  }

  // This guest masks nothing.
  void mask(vhost::VectorIndex) override {}
  void unmask(vhost::VectorIndex) override {}
  void raise(vhost::VectorIndex vector) override {
    const vhost::EventNotifier* notifier = calls_[to_int(vector)];
    if (notifier != nullptr) notifier->signal().IgnoreError();
  }

  void broken(const absl::Status& why) override { lost = why; }

 private:
  std::array<const vhost::EventNotifier*, kQueues> kicks_{};
  std::array<const vhost::EventNotifier*, kQueues> calls_{};
};

#endif  // DOCS_EXAMPLES_EMBED_VM_DISK_H_
