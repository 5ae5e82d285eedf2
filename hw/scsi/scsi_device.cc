// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/scsi_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

// What the driver may write: sense_size and cdb_size.
constexpr uint32_t kWritableBegin = 20;
constexpr uint32_t kWritableEnd = 28;

// Completes with `status`, as an operation that has nothing to do.
void finish(VhostDev& dev, const absl::Status& status, Completion done) {
  dev.set_queues_enabled(
      {}, true, [status, done = std::move(done)](const absl::Status&) mutable {
        done(status);
      });
}

absl::Status check_range(uint32_t offset, size_t size) {
  if (offset <= kScsiConfigSize && size <= kScsiConfigSize - offset) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      size, " bytes at ", offset, " of the configuration's ", kScsiConfigSize));
}

absl::Status check_write(const ScsiConfig& config, uint32_t offset,
                         std::span<const std::byte> bytes) {
  absl::Status range = check_range(offset, bytes.size());
  if (!range.ok() || bytes.empty()) return range;
  if (offset < kWritableBegin || offset + bytes.size() > kWritableEnd) {
    return absl::InvalidArgumentError(absl::StrCat(
        "set config: ", bytes.size(), " bytes at ", offset,
        ": only the sizes of sense data and commands may be written"));
  }
  const auto ours = encode_scsi_config(config);
  if (std::equal(bytes.begin(), bytes.end(), ours.begin() + offset)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("set config: sense data of ", config.sense_size,
                   " bytes and commands of ", config.cdb_size, " are fixed"));
}

}  // namespace

ScsiQueues::ScsiQueues(uint32_t requests)
    : requests_(std::clamp(requests, 1u, kMaxQueues - kFixed)) {}

ScsiDevice::ScsiDevice(VhostDev& dev, ScsiQueues queues, ScsiConfig config)
    : dev_(dev), config_(config) {
  config_.request_queues = queues.requests();
}

ScsiDevice::ScsiDevice(VhostDev& dev, ScsiQueues queues)
    : ScsiDevice(dev, queues, ScsiConfig()) {}

const ScsiConfig& ScsiDevice::config() const { return config_; }

void ScsiDevice::get_config(uint32_t offset, std::span<std::byte> out,
                            Completion done) {
  if (dev_.traits().has_config) {
    return dev_.get_config(offset, out, std::move(done));
  }
  const absl::Status range = check_range(offset, out.size());
  if (range.ok()) {
    const auto ours = encode_scsi_config(config_);
    std::copy_n(ours.begin() + offset, out.size(), out.begin());
  }
  finish(dev_, range, std::move(done));
}

void ScsiDevice::set_config(uint32_t offset, std::span<const std::byte> bytes,
                            Completion done) {
  if (dev_.traits().has_config) {
    return dev_.set_config(offset, bytes, ConfigWriter::kDriver,
                           std::move(done));
  }
  finish(dev_, check_write(config_, offset, bytes), std::move(done));
}

}  // namespace vhost
