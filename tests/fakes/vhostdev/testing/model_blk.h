// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_BLK_H_
#define VHOSTDEV_TESTING_MODEL_BLK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_device.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

struct ModelBlkOptions {
  bool read_only = false;
  uint16_t queues = 4;                 // As the configuration space tells it.
  std::string id = "vhost-model-blk";  // What GET_ID answers: 20 bytes of it.
  FeatureSet without;                  // Device features not to offer.
};

// A block device on a file or on memory.
// Source: VIRTIO 1.3, "Block Device".
class ModelBlk final : public ModelDevice {
 public:
  // Over `file`, whose size rounded down to 512 bytes is the disk's.
  // Errors: kInvalidArgument  neither a regular file nor a block device.
  static absl::StatusOr<std::unique_ptr<ModelBlk>> on_file(
      UniqueFd file, ModelBlkOptions options = {});

  // Over memory: `size` zero bytes.
  static absl::StatusOr<std::unique_ptr<ModelBlk>> on_memory(
      uint64_t size, ModelBlkOptions options = {});

  uint32_t device_id() const override { return kDeviceIdBlock; }
  FeatureSet features() const override;
  void accept_features(FeatureSet accepted) override { accepted_ = accepted; }
  std::vector<std::byte> config() const override;
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override;
  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override;
  void reset() override;

  // Grows or shrinks a disk in memory.  A front-end learns of it through
  // ModelBackend::config_changed().
  absl::Status resize(uint64_t size);

  // The file or memory of the disk.
  FdRef disk() const { return disk_; }
  uint64_t size() const { return size_; }  // Bytes.

 private:
  struct Header;

  ModelBlk(UniqueFd disk, uint64_t size, ModelBlkOptions options);

  bool within(uint64_t sector, uint64_t bytes) const;
  uint8_t run(const Header& header, std::span<const ModelSegment> out,
              std::span<const ModelSegment> in);
  uint8_t transfer(const Header& header, std::span<const ModelSegment> data,
                   bool to_disk);
  uint8_t flush();
  uint8_t get_id(std::span<const ModelSegment> in);
  uint8_t ranges(uint32_t type, std::span<const ModelSegment> out);
  uint8_t clear_range(uint32_t type, uint64_t sector, uint32_t sectors,
                      uint32_t flags);
  absl::Status zero(uint64_t offset, uint64_t bytes);

  UniqueFd disk_;
  uint64_t size_;
  ModelBlkOptions options_;
  FeatureSet accepted_;
  bool writeback_ = true;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_BLK_H_
