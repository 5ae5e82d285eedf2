// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_DEVICE_CONFIG_H_
#define TOOLS_VHOSTCTL_DEVICE_CONFIG_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "tools/vhostctl/output.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::ctl {

// What kind of device a vhost-user back-end is, which the protocol does not
// say: network if it offers what only those have, otherwise block if it has a
// configuration space, otherwise 0.
uint32_t guess_device(const BackendTraits& traits);

// "blk", "net", ...; "unknown".
const char* device_name(uint32_t device_id);

// Bytes of configuration space that the offered features give a meaning to.
uint32_t config_size(uint32_t device_id, FeatureSet features);

// The fields that the offered features give a meaning to, spelled as in the
// specification.  Fields beyond `bytes` are left out.
// Source: VIRTIO 1.3, "Device configuration layout" of each device.
Json decode_config(uint32_t device_id, FeatureSet features,
                   std::span<const std::byte> bytes);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_DEVICE_CONFIG_H_
