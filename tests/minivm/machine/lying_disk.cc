// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/machine/lying_disk.h"

#include <unistd.h>

#include <cstring>

#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint32_t kWrite = 1;

struct Header {
  uint32_t type = 0;
  uint32_t reserved = 0;
  uint64_t sector = 0;
};

}  // namespace

LyingDisk::LyingDisk(uint64_t size, uint16_t queues,
                     std::optional<ctl::BlockFault> fault)
    : fault_(fault) {
  testing::ModelBlkOptions options;
  options.queues = queues;
  disk_ = *testing::ModelBlk::on_memory(size, options);
}

absl::StatusOr<uint32_t> LyingDisk::handle(
    const testing::ModelRequest& request) {
  Header header;
  const size_t got = testing::copy_from(
      request.readable, std::as_writable_bytes(std::span(&header, 1)));
  if (!fault_.has_value() || got != sizeof(header) || header.type != kWrite) {
    return disk_->handle(request);
  }
  const uint64_t all = testing::total_size(request.readable);
  Data data(all - sizeof(header));
  testing::copy_from(
      testing::slice(request.readable, sizeof(header), data.size()), data);
  return lie(request, header.sector, data);
}

bool LyingDisk::chosen(uint64_t sector) {
  // Often enough for some to be read back before they are overwritten.
  constexpr uint64_t kInterval = 20;
  if (++writes_ % kInterval != 0) return false;
  const uint64_t times = written_[sector].times;
  switch (*fault_) {
    case ctl::BlockFault::kLost:
      return times == 0;
    case ctl::BlockFault::kStale:
      // Of two in a row what is there looks like an old one, carried out again.
      return times > 0 && !written_[sector].dropped;
    case ctl::BlockFault::kDoubled:
      return times > 1;
    default:
      return true;
  }
}

absl::StatusOr<uint32_t> LyingDisk::lie(const testing::ModelRequest& request,
                                        uint64_t sector, const Data& data) {
  const bool now = chosen(sector);
  Written& unit = written_[sector];
  if (unit.times++ == 0) unit.first = data;
  const bool dropped = now && (fault_ == ctl::BlockFault::kLost ||
                               fault_ == ctl::BlockFault::kStale);
  unit.dropped = dropped;
  if (dropped) {
    constexpr std::byte kGood{0};
    testing::copy_to(request.writable, std::span(&kGood, 1));
    return 1;
  }
  const absl::StatusOr<uint32_t> done = disk_->handle(request);
  if (!now || !done.ok()) return done;
  Data wrong = data;
  uint64_t where = sector;
  if (fault_ == ctl::BlockFault::kTorn) wrong[data.size() / 2] ^= std::byte{1};
  if (fault_ == ctl::BlockFault::kDoubled) wrong = unit.first;
  if (fault_ == ctl::BlockFault::kMisplaced) {
    // Over another unit of the same size, which was written.
    for (const auto& [other, state] : written_) {
      if (other != sector && state.times > 0) where = other;
    }
  }
  VHOST_RETURN_IF_ERROR(put(where, wrong));
  return done;
}

absl::Status LyingDisk::put(uint64_t sector, const Data& data) {
  const ssize_t done = ::pwrite(disk_->disk().get(), data.data(), data.size(),
                                static_cast<off_t>(sector * kSector));
  if (done != static_cast<ssize_t>(data.size())) {
    return errno_status(errno, "pwrite");
  }
  return absl::OkStatus();
}

}  // namespace vhost::minivm
