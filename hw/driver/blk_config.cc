// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "hw/driver/blk_request.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Offsets in struct virtio_blk_config.  Source: VIRTIO 1.3, "Block Device",
// "Device configuration layout".
constexpr uint32_t kCapacity = 0;
constexpr uint32_t kSizeMax = 8;
constexpr uint32_t kSegMax = 12;
constexpr uint32_t kBlkSize = 20;
constexpr uint32_t kWriteback = 32;
constexpr uint32_t kNumQueues = 34;
constexpr uint32_t kMaxDiscardSectors = 36;
constexpr uint32_t kDiscardAlignment = 44;
constexpr uint32_t kMaxWriteZeroesSectors = 48;
constexpr uint32_t kWriteZeroesMayUnmap = 56;

// Reads fields and remembers whether one of them was not there.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  T read(uint32_t offset) {
    T value{};
    if (bytes_.size() < offset + sizeof(T)) {
      needed_ = offset + sizeof(T);
    } else {
      std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    }
    return value;
  }

  // Bytes that would have been needed; 0: there were enough.
  size_t needed() const { return needed_; }

 private:
  std::span<const std::byte> bytes_;
  size_t needed_ = 0;
};

}  // namespace

absl::Status check_blk_config(const BlkConfig& config) {
  if (!std::has_single_bit(config.blk_size) ||
      config.blk_size < kBlkSectorSize) {
    return absl::DataLossError(absl::StrCat("block configuration: blocks of ",
                                            config.blk_size, " bytes"));
  }
  if (config.capacity > UINT64_MAX / kBlkSectorSize) {
    return absl::DataLossError(absl::StrCat("block configuration: capacity of ",
                                            config.capacity, " sectors"));
  }
  return absl::OkStatus();
}

absl::StatusOr<BlkConfig> decode_blk_config(FeatureSet features,
                                            std::span<const std::byte> bytes) {
  Reader reader(bytes);
  BlkConfig out;
  out.capacity = reader.read<uint64_t>(kCapacity);
  out.read_only = features.has(kBlkFeatureReadOnly);
  out.flush = features.has(kBlkFeatureFlush);
  if (features.has(kBlkFeatureSizeMax)) {
    out.size_max = reader.read<uint32_t>(kSizeMax);
  }
  if (features.has(kBlkFeatureSegMax)) {
    out.seg_max = reader.read<uint32_t>(kSegMax);
  }
  if (features.has(kBlkFeatureBlkSize)) {
    out.blk_size = reader.read<uint32_t>(kBlkSize);
  }
  if (features.has(kBlkFeatureConfigWce)) {
    out.writeback = reader.read<uint8_t>(kWriteback) != 0;
  }
  if (features.has(kBlkFeatureMq)) {
    out.num_queues = reader.read<uint16_t>(kNumQueues);
  }
  if (features.has(kBlkFeatureDiscard)) {
    out.discard = true;
    out.max_discard_sectors = reader.read<uint32_t>(kMaxDiscardSectors);
    out.discard_alignment = reader.read<uint32_t>(kDiscardAlignment);
  }
  if (features.has(kBlkFeatureWriteZeroes)) {
    out.write_zeroes = true;
    out.max_write_zeroes_sectors =
        reader.read<uint32_t>(kMaxWriteZeroesSectors);
    out.write_zeroes_may_unmap =
        reader.read<uint8_t>(kWriteZeroesMayUnmap) != 0;
  }
  if (reader.needed() != 0) {
    return absl::DataLossError(
        absl::StrCat("block configuration: ", bytes.size(), " bytes of ",
                     reader.needed(), " needed"));
  }
  VHOST_RETURN_IF_ERROR(check_blk_config(out));
  return out;
}

}  // namespace vhost
