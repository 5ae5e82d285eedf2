// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_KERNEL_DEVICE_H_
#define BACKENDS_KERNEL_KERNEL_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/kernel/ioctl_seam.h"
#include "backends/kernel/iotlb_message.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// One open device with its requests as functions, each of which makes one
// system call (two where it says so).  Queues are numbered as the back-end
// does: this device's begin with `first`.
//
// Errors of all: as refusal().
// Source: linux/vhost.h.
class KernelDevice {
 public:
  // `counters` outlives it.
  KernelDevice(std::unique_ptr<VhostFile> file, BackendQueue first,
               BackendCounters& counters);
  KernelDevice(KernelDevice&&) = default;

  FdRef fd() const { return file_->fd(); }

  // -- Ownership -----------------------------------------------------------
  absl::Status set_owner();
  absl::Status reset_owner();
  // Before set_owner: whether workers are tasks of the owner.
  absl::Status set_fork_from_owner(bool fork);
  absl::StatusOr<bool> fork_from_owner();

  // -- Features ------------------------------------------------------------
  // All 128 bits, or 64 (two calls) where the kernel does not know of more.
  absl::StatusOr<FeatureSet> features();
  // With bits from 64 on by the newer request, which must then exist.
  absl::Status set_features(FeatureSet features);
  absl::StatusOr<uint64_t> backend_features();
  absl::Status set_backend_features(uint64_t features);

  // -- Memory and log ------------------------------------------------------
  // `table`: a struct vhost_memory (memory_table.h).
  absl::Status set_memory_table(std::span<std::byte> table);
  absl::Status set_log_base(uint64_t base);
  absl::Status set_log_fd(int fd);

  // -- Queues --------------------------------------------------------------
  absl::Status set_num(BackendQueue vq, uint32_t num);
  absl::Status set_base(BackendQueue vq, uint32_t base);
  absl::StatusOr<uint32_t> base(BackendQueue vq);
  struct Addresses {
    uint64_t desc = 0;
    uint64_t avail = 0;
    uint64_t used = 0;
    uint64_t log_gpa = 0;
    bool log = false;
  };
  absl::Status set_addr(BackendQueue vq, const Addresses& addresses);
  absl::Status set_big_endian(BackendQueue vq, bool big);
  // -1: none.
  absl::Status set_kick(BackendQueue vq, int fd);
  absl::Status set_call(BackendQueue vq, int fd);
  absl::Status set_err(BackendQueue vq, int fd);
  absl::Status set_busyloop(BackendQueue vq, uint32_t microseconds);
  absl::StatusOr<uint32_t> busyloop(BackendQueue vq);

  // -- Worker threads (Linux 6.5) ------------------------------------------
  absl::StatusOr<uint32_t> new_worker();
  absl::Status free_worker(uint32_t worker);
  absl::Status attach_worker(BackendQueue vq, uint32_t worker);
  absl::StatusOr<uint32_t> worker_of(BackendQueue vq);

  // -- Device classes ------------------------------------------------------
  absl::Status net_set_backend(BackendQueue vq, int fd);
  absl::Status vsock_set_guest_cid(uint64_t cid);
  absl::Status vsock_set_running(bool running);
  absl::Status scsi_set_endpoint(const std::string& wwpn, uint16_t tpgt);
  absl::Status scsi_clear_endpoint(const std::string& wwpn, uint16_t tpgt);
  absl::StatusOr<int> scsi_abi_version();
  absl::Status scsi_set_events_missed(bool missed);
  absl::StatusOr<bool> scsi_events_missed();

  // -- The device IOTLB ----------------------------------------------------
  absl::Status send_iotlb(const UpdateIotlb& update, IotlbVersion version);
  // The next message; empty: there is none.
  // Errors: kDataLoss  as decode_iotlb.
  absl::StatusOr<std::optional<IotlbRequest>> next_iotlb(IotlbVersion version);

 private:
  absl::Status call(unsigned long request, void* arg);
  absl::Status queue_call(BackendQueue vq, unsigned long request, void* arg);
  absl::Status set_state(BackendQueue vq, unsigned long request, uint32_t num);
  absl::StatusOr<uint32_t> get_state(BackendQueue vq, unsigned long request);
  absl::Status set_file(BackendQueue vq, unsigned long request, int fd);
  absl::Status endpoint(unsigned long request, const std::string& wwpn,
                        uint16_t tpgt);
  uint32_t local(BackendQueue vq) const { return to_int(vq) - to_int(first_); }

  std::unique_ptr<VhostFile> file_;
  BackendQueue first_;
  BackendCounters* counters_;
};

}  // namespace vhost

#endif  // BACKENDS_KERNEL_KERNEL_DEVICE_H_
