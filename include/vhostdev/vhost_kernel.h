// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_KERNEL_H_
#define VHOSTDEV_VHOST_KERNEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// The vhost back-ends of the Linux kernel.  Every verb completes inside
// submit(); none waits for anything but the kernel's own work.  Requests that
// were refused are named with the queue and, where it is known, the cause:
//   VHOST_SET_VRING_NUM vq 3: EINVAL (Invalid argument): ring size is 0, not a
//   power of 2 or above 32768
//
// Behind an IOMMU (ACCESS_PLATFORM) the kernel asks for translations; they are
// answered on the loop the ops were attached to, and in pump().
// Source: linux/vhost.h, linux/vhost_types.h.

// Opens a device of that path, again at each Open.
struct OpenDevice {
  std::string path;
};
// Uses an open device (O_RDWR, in exclusive use), which is made non-blocking.
// It is closed with the ops and cannot be opened a second time: the descriptor
// is taken out of `file` by the first Open.
struct UseDevice {
  std::shared_ptr<UniqueFd> file;
};
using VhostDeviceFile = std::variant<OpenDevice, UseDevice>;

// What the kernel's worker threads are.  Not kDefault: since Linux 6.17, where
// it was built with a choice.  Source: linux/vhost.h,
// VHOST_SET_FORK_FROM_OWNER.
enum class VhostWorkerThread : uint8_t {
  kDefault,
  kKernelThread,  // Threads of the kernel.
  kOwnersTask,    // Tasks of this process: its limits and cgroup hold for them.
};

struct VhostNetOptions {
  // One device is opened for each queue pair, because the kernel's has two
  // rings; or each pair's is taken from `files`, in order.  A second Open needs
  // the path.
  std::string path = "/dev/vhost-net";
  std::vector<std::shared_ptr<UniqueFd>> files = {};

  // One per pair: back-end queues 2i and 2i + 1 receive from and send to
  // taps[i].  Borrowed: they outlive the ops.
  std::vector<FdRef> taps = {};
  // IFF_VNET_HDR.  Without it the kernel must offer to add and strip the
  // header (VHOST_NET_F_VIRTIO_NET_HDR), or Open fails.
  bool tap_has_vnet_header = true;
  // With that header: whether it can be 12 bytes (TUNSETVNETHDRSZ).  MRG_RXBUF
  // and VERSION_1 need it and are not offered without.
  bool tap_header_can_be_12 = true;

  // How long a ring is polled before its worker sleeps; rounded up to
  // microseconds.
  Duration busyloop{};
  VhostWorkerThread worker_thread = VhostWorkerThread::kDefault;
};

struct VhostVsockOptions {
  VhostDeviceFile device = OpenDevice{"/dev/vhost-vsock"};
  // Told at Open, and changed by SetGuestCid; 0: by SetGuestCid alone.
  uint64_t guest_cid = 0;
  Duration busyloop{};
  VhostWorkerThread worker_thread = VhostWorkerThread::kDefault;
};

struct VhostScsiOptions {
  VhostDeviceFile device = OpenDevice{"/dev/vhost-scsi"};
  // The endpoint: a target that was made in configfs, such as
  // "naa.5001405cc0ffee00", and its portal group.
  std::string wwpn = {};
  uint16_t tpgt = 0;
  // Control, event and request queues.
  uint32_t queues = 3;
  // Worker threads of its own for the request queues, in turn; 0: all queues
  // share the device's one.  Since Linux 6.5.
  uint32_t workers = 0;
  Duration busyloop{};
  VhostWorkerThread worker_thread = VhostWorkerThread::kDefault;
};

// /dev/vhost-net.  One VhostOps for all pairs: what concerns the whole device
// is done to all of them or, where one refuses, to none.  A queue is enabled
// while its tap is attached.
// QEMU: vhost_net_set_backend, kernel_ops.
std::unique_ptr<VhostOps> make_vhost_net_ops(VhostNetOptions options);

// /dev/vhost-vsock: back-end queue 0 receives and queue 1 sends; the event
// queue is the VMM's own.
std::unique_ptr<VhostOps> make_vhost_vsock_ops(VhostVsockOptions options);

// /dev/vhost-scsi: the endpoint is set by Go and cleared by Quiesce.
std::unique_ptr<VhostOps> make_vhost_scsi_ops(VhostScsiOptions options);

// The version of vhost-scsi's interface; 1 is the one there is.  Uses the file
// of a UseDevice without taking it; it becomes non-blocking.
// Errors: kUnavailable        there is no such device.
//         kPermissionDenied   it may not be opened.
//         kInvalidArgument    the file of a UseDevice is not open.
//         kAborted, kUnimplemented   it is not vhost-scsi.
absl::StatusOr<int> vhost_scsi_abi_version(const VhostDeviceFile& device);

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_KERNEL_H_
