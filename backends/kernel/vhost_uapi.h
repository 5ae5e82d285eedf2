// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_KERNEL_VHOST_UAPI_H_
#define BACKENDS_KERNEL_VHOST_UAPI_H_

// <linux/vhost.h> as C++ can read it: the legacy part of virtio_ring.h does
// pointer arithmetic on void*.  Requests that Debian 12's header (Linux 6.1)
// lacks belong here, each with the kernel version that brought it; none is
// used so far.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

#endif  // BACKENDS_KERNEL_VHOST_UAPI_H_
