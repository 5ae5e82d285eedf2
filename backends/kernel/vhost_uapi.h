// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_UAPI_H_
#define BACKENDS_KERNEL_VHOST_UAPI_H_

#include <cstdint>

// <linux/vhost.h> as C++ can read it: the legacy part of virtio_ring.h does
// pointer arithmetic on void*.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

// What Debian 12's header (Linux 6.1) lacks, with the version that brought it.

// Linux 6.5: worker threads.
#ifndef VHOST_NEW_WORKER
struct vhost_worker_state {
  unsigned int worker_id;
};
struct vhost_vring_worker {
  unsigned int index;
  unsigned int worker_id;
};
#define VHOST_NEW_WORKER _IOR(VHOST_VIRTIO, 0x8, struct vhost_worker_state)
#define VHOST_FREE_WORKER _IOW(VHOST_VIRTIO, 0x9, struct vhost_worker_state)
#define VHOST_ATTACH_VRING_WORKER \
  _IOW(VHOST_VIRTIO, 0x15, struct vhost_vring_worker)
#define VHOST_GET_VRING_WORKER \
  _IOWR(VHOST_VIRTIO, 0x16, struct vhost_vring_worker)
#endif

// Linux 6.17: feature bits from 64 on.  The header's struct ends in a flexible
// array, which the requests' numbers do not count: two words stand for it here.
#ifndef VHOST_GET_FEATURES_ARRAY
#define VHOST_GET_FEATURES_ARRAY _IOR(VHOST_VIRTIO, 0x83, uint64_t)
#define VHOST_SET_FEATURES_ARRAY _IOW(VHOST_VIRTIO, 0x83, uint64_t)
#endif

// Linux 6.17: what the worker threads are.
#ifndef VHOST_SET_FORK_FROM_OWNER
#define VHOST_FORK_OWNER_KTHREAD 0
#define VHOST_FORK_OWNER_TASK 1
#define VHOST_SET_FORK_FROM_OWNER _IOW(VHOST_VIRTIO, 0x84, __u8)
#define VHOST_GET_FORK_FROM_OWNER _IOR(VHOST_VIRTIO, 0x85, __u8)
#endif

namespace vhost {

// What the FEATURES_ARRAY requests point to.
struct KernelFeaturesArray {
  uint64_t count;
  uint64_t words[2];
};
static_assert(sizeof(KernelFeaturesArray) == 24);

}  // namespace vhost

#endif  // BACKENDS_KERNEL_VHOST_UAPI_H_
