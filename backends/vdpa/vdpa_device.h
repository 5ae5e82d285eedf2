// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_VDPA_VDPA_DEVICE_H_
#define BACKENDS_VDPA_VDPA_DEVICE_H_

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "backends/vdpa/vdpa_file.h"
#include "vhostdev/memory.h"

namespace vhost {

// What an open vhost-vdpa device knows of itself.
struct VdpaFacts {
  uint64_t features = 0;
  uint64_t backend_features = 0;  // In use.
  uint32_t queues = 0;
  uint32_t max_ring_size = 0;
  uint32_t config_size = 0;
  uint64_t iova_first = 0;
  uint64_t iova_last = 0;
};

// An open vhost-vdpa device: its status machine and its mappings.  Every change
// of status is read back.
//
//   open: owner, ACKNOWLEDGE | DRIVER
//   FEATURES_OK -> DRIVER_OK -> (suspended) -> reset: ACKNOWLEDGE | DRIVER
class VdpaDevice {
 public:
  explicit VdpaDevice(std::unique_ptr<VdpaFile> file);

  // Takes the device, resets it and reads its facts.
  absl::StatusOr<VdpaFacts> start_up();

  // Refusals are kAborted, with the errno.
  absl::Status call(unsigned long request, absl::string_view name, void* arg);

  // Writes the features and FEATURES_OK.  A device that was past that point is
  // reset before.
  absl::Status accept_features(uint64_t features);
  absl::Status driver_ok();
  // Status 0 and back to ACKNOWLEDGE | DRIVER.  Mappings are taken away unless
  // the device keeps them.
  absl::Status reset();
  bool is_driver_ok() const;

  // Maps or unmaps one entry; iova is the guest physical address.  Between
  // begin() and end() the device may put changes off.
  absl::Status begin_batch();
  absl::Status end_batch();
  absl::Status map(const MemoryTableEntry& entry);
  absl::Status unmap(const MemoryTableEntry& entry);
  // Whether a reset took the mappings away; map_again() brings them back.
  bool unmapped_by_reset() const { return unmapped_by_reset_; }
  absl::Status map_again();

  uint64_t calls() const { return calls_; }

 private:
  // A mapping, by IOVA.  It keeps no reference: hw/virtio does.
  struct Mapping {
    uint64_t size = 0;
    uint64_t user = 0;
    bool readonly = false;
  };

  bool has_backend_feature(unsigned bit) const;
  absl::Status add_status(uint8_t bits);
  absl::Status write_iotlb(uint8_t type, uint64_t iova, const Mapping& mapping);
  absl::Status take_mappings_away();

  std::unique_ptr<VdpaFile> file_;
  VdpaFacts facts_;
  uint8_t status_ = 0;
  std::map<uint64_t, Mapping> mappings_;
  bool unmapped_by_reset_ = false;
  uint64_t calls_ = 0;
};

}  // namespace vhost

#endif  // BACKENDS_VDPA_VDPA_DEVICE_H_
