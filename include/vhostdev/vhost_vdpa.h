// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_VDPA_H_
#define VHOSTDEV_VHOST_VDPA_H_

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// Opens the device, which the kernel lets one at a time do.
struct OpenVdpaDevice {
  std::string path = "/dev/vhost-vdpa-0";
};
// Uses a file that is open already; taken over by Open, which therefore cannot
// be repeated.
struct UseVdpaDevice {
  std::shared_ptr<UniqueFd> file;
};
using VhostVdpaDevice = std::variant<OpenVdpaDevice, UseVdpaDevice>;

// Backend feature bits of a vhost-vdpa device (VHOST_BACKEND_F_*).
// Source: linux/vhost_types.h; each with the first kernel that has it.  Only
// the first is needed; what else is needed of the kernel is in 5.18.
inline constexpr unsigned kVdpaIotlbMsgV2 = 1;           // 5.7; needed.
inline constexpr unsigned kVdpaIotlbBatch = 2;           // 5.11
inline constexpr unsigned kVdpaIotlbAsid = 3;            // 5.19
inline constexpr unsigned kVdpaSuspend = 4;              // 6.1
inline constexpr unsigned kVdpaResume = 5;               // 6.3
inline constexpr unsigned kVdpaEnableAfterDriverOk = 6;  // 6.6
inline constexpr unsigned kVdpaDescriptorAsid = 7;       // 6.7; not used.
inline constexpr unsigned kVdpaIotlbPersist = 8;         // 6.7

// "IOTLB_BATCH"; "bit 40" where there is no name.
std::string vdpa_backend_feature_name(unsigned bit);

// What a device says of itself.
struct VhostVdpaInfo {
  uint32_t device_id = 0;         // As in features.h.
  FeatureSet features;            // Offered, ACCESS_PLATFORM included.
  uint64_t backend_features = 0;  // Offered.
  uint32_t queues = 0;
  uint32_t groups = 1;          // Of queues.
  uint32_t address_spaces = 1;  // A group is in one of them.
  // The group of each queue; empty where it is not known: the kernel tells
  // whoever owns the device.
  std::vector<uint32_t> queue_groups;
  uint32_t config_size = 0;    // Bytes.
  uint32_t max_ring_size = 0;  // Descriptors.
  // Guest memory must lie between these addresses, both included.
  uint64_t iova_first = 0;
  uint64_t iova_last = 0;
};

// Asks a device what it is.  A path is opened for this long, and the device
// thereby reset; a file is only asked, not owned, and stays the caller's.
// Any thread.
// Errors: kUnavailable         there is no such device, it is gone, or
//                              somebody has it open.
//         kUnimplemented       vDPA is not part of this build.
//         kAborted             it is not a vhost-vdpa device, or the kernel is
//                              older than 5.18.
//         kPermissionDenied    it may not be opened.
//         kFailedPrecondition  there is no file, or it was taken over.
//         kResourceExhausted   no descriptors or no memory left.
//         kDataLoss            it claims more queues than a device can have.
absl::StatusOr<VhostVdpaInfo> read_vhost_vdpa_info(
    const VhostVdpaDevice& device);

struct VhostVdpaOptions {
  VhostVdpaDevice device;

  // In which address space the queues of a group see guest memory; groups that
  // are not named are in number 0.  All of guest memory is mapped, and pinned,
  // once in each address space that is used.
  struct GroupAddressSpace {
    uint32_t group = 0;
    uint32_t address_space = 0;
  };
  std::vector<GroupAddressSpace> group_address_spaces;

  // Backend features never to use, whatever is offered.
  uint64_t masked_backend_features = 0;
};

// A vhost-vdpa device.  Nothing is opened before Open.
//
// The device reaches guest memory at IOVA = guest physical address.  All of it
// is pinned from the first start to the end (traits.pins_memory), so
// RLIMIT_MEMLOCK must cover it, and verbs that map it take their time
// (traits.may_block).  There is no dirty log (traits.takes_log) and no vIOMMU
// (traits.has_iotlb).  A stop suspends the device; one that cannot is reset
// and its rings' positions are unknown.
//
// A device in user space (VDUSE) reaches only memory that is a shared mapping
// of a file.  The kernel passes over other memory without a word.
//
// Open fails as read_vhost_vdpa_info does, and besides
// Errors: kUnimplemented       no IOTLB messages of type 2, or one address
//                              space where more were asked for.
//         kInvalidArgument     a group or an address space it does not have.
//         kAborted             the file has another owner, or the device does
//                              not let itself be reset.
// Source: linux/vhost.h.
// QEMU: vdpa_ops.
std::unique_ptr<VhostOps> make_vhost_vdpa_ops(VhostVdpaOptions options);

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_VDPA_H_
