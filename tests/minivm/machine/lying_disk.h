// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MACHINE_LYING_DISK_H_
#define TESTS_MINIVM_MACHINE_LYING_DISK_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tools/vhostctl/unit_record.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/testing/model_device.h"

namespace vhost::minivm {

// A disk in memory that does something wrong to some writes, all of one kind,
// and says that they went well.
class LyingDisk final : public testing::ModelDevice {
 public:
  // Without a fault it is an honest one.
  LyingDisk(uint64_t size, uint16_t queues,
            std::optional<ctl::BlockFault> fault = std::nullopt);

  uint32_t device_id() const override { return disk_->device_id(); }
  FeatureSet features() const override { return disk_->features(); }
  void accept_features(FeatureSet accepted) override {
    disk_->accept_features(accepted);
  }
  std::vector<std::byte> config() const override { return disk_->config(); }
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override {
    return disk_->write_config(offset, bytes, migration);
  }
  absl::StatusOr<uint32_t> handle(
      const testing::ModelRequest& request) override;
  void reset() override { disk_->reset(); }

 private:
  using Data = std::vector<std::byte>;

  absl::StatusOr<uint32_t> lie(const testing::ModelRequest& request,
                               uint64_t sector, const Data& data);
  // Whether this write is one to lie about.
  bool chosen(uint64_t sector);
  // Writes behind the request's back.
  absl::Status put(uint64_t sector, const Data& data);

  std::unique_ptr<testing::ModelBlk> disk_;
  const std::optional<ctl::BlockFault> fault_;
  uint64_t writes_ = 0;
  struct Written {
    uint64_t times = 0;
    bool dropped = false;  // The last one.
    Data first;
  };
  std::map<uint64_t, Written> written_;  // By sector.
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_MACHINE_LYING_DISK_H_
