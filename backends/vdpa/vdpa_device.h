// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_DEVICE_H_
#define BACKENDS_VDPA_VDPA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "backends/vdpa/vdpa_file.h"
#include "backends/vdpa/vdpa_mappings.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost {

// One request of an open device, called `name`.  Errors: as vdpa_refusal().
absl::Status ask_vdpa(VdpaFile& file, unsigned long request,
                      absl::string_view name, void* arg);

// Asks an open device what it is, which its owner and everybody else may.
absl::StatusOr<VhostVdpaInfo> read_vdpa_info(VdpaFile& file);

// The group of each queue, from whoever owns the device.
absl::StatusOr<std::vector<uint32_t>> read_queue_groups(VdpaFile& file,
                                                        uint32_t queues);

// A vhost-vdpa device that is ours: its status machine, its address spaces and
// its mappings.  Every change of status is read back.
//
//   open: owner, ACKNOWLEDGE | DRIVER
//   FEATURES_OK -> DRIVER_OK <-> suspended
//   reset, from any: ACKNOWLEDGE | DRIVER
class VdpaDevice {
 public:
  // Of `options` everything but the device itself.
  VdpaDevice(std::unique_ptr<VdpaFile> file, const VhostVdpaOptions& options);

  // Takes the device, resets it and asks what it is.
  // Errors: kUnimplemented    no IOTLB messages of type 2, or it has no
  //                           address spaces and some were asked for.
  //         kAborted          it said no; the kernel is older than 5.18.
  //         kInvalidArgument  an address space or a group it does not have.
  absl::Status start_up();
  const VhostVdpaInfo& info() const { return info_; }

  // Whether this backend feature is in use.
  bool uses(unsigned backend_feature) const;

  // Refusals are kAborted, with the errno.
  absl::Status call(unsigned long request, absl::string_view name, void* arg);

  // Writes the features and FEATURES_OK, and puts the groups into their address
  // spaces.  A device that is not where a reset brings it is reset before.
  absl::Status accept_features(uint64_t features);
  absl::Status driver_ok();
  bool is_driver_ok() const;
  // Where it cannot: kUnimplemented, nothing done.
  absl::Status suspend();
  absl::Status resume();
  bool suspended() const { return suspended_; }
  // Stops a device that is about to be closed, or already lost.
  void abandon();
  // Status 0 and back to ACKNOWLEDGE | DRIVER.  Mappings are taken away unless
  // the device keeps them.
  absl::Status reset();

  VdpaMappings& mappings() { return mappings_; }
  HostNotifierArea doorbell(uint32_t queue) { return file_->doorbell(queue); }

  // "status 0xf, suspended, backend features ..."; for errors.
  std::string describe() const;

  // Requests and messages so far.
  uint64_t calls() const { return calls_ + mappings_.messages(); }

 private:
  absl::Status agree_on_backend_features();
  absl::Status plan_address_spaces();
  absl::Status add_status(uint8_t bits);

  std::unique_ptr<VdpaFile> file_;
  const std::vector<VhostVdpaOptions::GroupAddressSpace> groups_;
  const uint64_t masked_backend_features_;
  VhostVdpaInfo info_;
  uint64_t backend_features_ = 0;  // In use.
  uint8_t status_ = 0;
  bool suspended_ = false;
  VdpaMappings mappings_;
  uint64_t calls_ = 0;
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_DEVICE_H_
