// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_UAPI_H_
#define BACKENDS_VDPA_VDPA_UAPI_H_

// <linux/vhost.h> as C++ can read it: the legacy part of virtio_ring.h does
// pointer arithmetic on void*.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

// What Debian 12's header (Linux 6.1) lacks; the bits of backend features are
// in vhost_vdpa.h.  Source: linux/vhost.h.

// A suspended device goes on where it stood.  Linux 6.3.
#ifndef VHOST_VDPA_RESUME
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif

#endif  // BACKENDS_VDPA_VDPA_UAPI_H_
