// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_UAPI_H_
#define BACKENDS_VDPA_VDPA_UAPI_H_

// <linux/vhost.h> as C++ can read it: the legacy part of virtio_ring.h does
// pointer arithmetic on void*.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

// What Debian 12's header (Linux 6.1) lacks.
// Source: linux/vhost_types.h.
namespace vhost {

// The mappings outlive a reset of the device.  Linux 6.7.
inline constexpr unsigned kVdpaBackendIotlbPersist = 8;

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_UAPI_H_
