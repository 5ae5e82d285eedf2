// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_blk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kSector = 512;

// Feature bits.
constexpr unsigned kSegMax = 2;
constexpr unsigned kReadOnly = 5;
constexpr unsigned kBlockSize = 6;
constexpr unsigned kFlush = 9;
constexpr unsigned kConfigWce = 11;
constexpr unsigned kMultiQueue = 12;
constexpr unsigned kDiscard = 13;
constexpr unsigned kWriteZeroes = 14;

// Request types.
constexpr uint32_t kIn = 0;
constexpr uint32_t kOut = 1;
constexpr uint32_t kFlushCommand = 4;
constexpr uint32_t kGetId = 8;
constexpr uint32_t kDiscardCommand = 11;
constexpr uint32_t kWriteZeroesCommand = 13;

// Answers.
constexpr uint8_t kOk = 0;
constexpr uint8_t kIoError = 1;
constexpr uint8_t kUnsupported = 2;

constexpr size_t kIdSize = 20;
constexpr uint32_t kSegMaxValue = 126;
constexpr uint32_t kMaxRangeSectors = 1u << 22;  // 2 GiB.
constexpr uint32_t kMaxRanges = 16;
constexpr uint32_t kUnmapFlag = 1;

struct Range {
  uint64_t sector;
  uint32_t sectors;
  uint32_t flags;
};
static_assert(sizeof(Range) == 16);

// The configuration space up to what DISCARD and WRITE_ZEROES need.
struct Config {
  uint64_t capacity;  // Sectors.
  uint32_t size_max;
  uint32_t seg_max;
  uint32_t geometry;
  uint32_t blk_size;
  uint64_t topology;
  uint8_t writeback;
  uint8_t unused0;
  uint16_t num_queues;
  uint32_t max_discard_sectors;
  uint32_t max_discard_seg;
  uint32_t discard_sector_alignment;
  uint32_t max_write_zeroes_sectors;
  uint32_t max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap;
  std::array<uint8_t, 7> unused1;
};
static_assert(offsetof(Config, writeback) == 32);
static_assert(offsetof(Config, max_discard_sectors) == 36);
static_assert(offsetof(Config, write_zeroes_may_unmap) == 56);
constexpr size_t kConfigSize = 60;

std::vector<iovec> to_iovec(std::span<const ModelSegment> segments) {
  std::vector<iovec> out;
  for (const ModelSegment& segment : segments) {
    out.push_back({segment.host, segment.size});
  }
  return out;
}

void clear(std::span<const ModelSegment> segments) {
  for (const ModelSegment& segment : segments) {
    std::memset(segment.host, 0, segment.size);
  }
}

// Reads or writes all of `vectors` at `offset`, however often it takes.
bool transfer_all(int fd, std::vector<iovec> vectors, uint64_t offset,
                  bool to_disk) {
  constexpr size_t kMaxVectors = 1024;  // IOV_MAX
  for (size_t first = 0; first < vectors.size();) {
    const auto count =
        static_cast<int>(std::min(vectors.size() - first, kMaxVectors));
    const auto position = static_cast<off_t>(offset);
    const ssize_t done = to_disk
                             ? ::pwritev(fd, &vectors[first], count, position)
                             : ::preadv(fd, &vectors[first], count, position);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    offset += static_cast<uint64_t>(done);
    auto left = static_cast<size_t>(done);
    while (first < vectors.size() && left >= vectors[first].iov_len) {
      left -= vectors[first++].iov_len;
    }
    if (left > 0) {
      vectors[first].iov_base =
          static_cast<std::byte*>(vectors[first].iov_base) + left;
      vectors[first].iov_len -= left;
    }
  }
  return true;
}

absl::StatusOr<uint64_t> size_of(FdRef file) {
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return errno_status(errno, "fstat");
  if (S_ISREG(info.st_mode)) return static_cast<uint64_t>(info.st_size);
  if (!S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(
        "neither a regular file nor a block device");
  }
  uint64_t size = 0;
  if (::ioctl(file.get(), BLKGETSIZE64, &size) != 0) {
    return errno_status(errno, "BLKGETSIZE64");
  }
  return size;
}

}  // namespace

struct ModelBlk::Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

absl::StatusOr<std::unique_ptr<ModelBlk>> ModelBlk::on_file(
    UniqueFd file, ModelBlkOptions options) {
  const absl::StatusOr<uint64_t> size = size_of(file);
  if (!size.ok()) return annotate(size.status(), "disk file");
  return std::unique_ptr<ModelBlk>(
      new ModelBlk(std::move(file), *size, std::move(options)));
}

absl::StatusOr<std::unique_ptr<ModelBlk>> ModelBlk::on_memory(
    uint64_t size, ModelBlkOptions options) {
  UniqueFd disk(::memfd_create("vhost-model-blk", MFD_CLOEXEC));
  if (!disk.valid()) return errno_status(errno, "memfd_create");
  if (::ftruncate(disk.get(), static_cast<off_t>(size)) != 0) {
    return errno_status(errno, absl::StrCat("a disk of ", size, " bytes"));
  }
  return std::unique_ptr<ModelBlk>(
      new ModelBlk(std::move(disk), size, std::move(options)));
}

ModelBlk::ModelBlk(UniqueFd disk, uint64_t size, ModelBlkOptions options)
    : disk_(std::move(disk)),
      size_(size / kSector * kSector),
      options_(std::move(options)) {}

FeatureSet ModelBlk::features() const {
  FeatureSet all = {kSegMax,     kBlockSize, kFlush,      kConfigWce,
                    kMultiQueue, kDiscard,   kWriteZeroes};
  if (options_.read_only) {
    all = all - FeatureSet{kDiscard, kWriteZeroes};
    all.set(kReadOnly);
  }
  return all - options_.without;
}

std::vector<std::byte> ModelBlk::config() const {
  Config config = {};
  config.capacity = size_ / kSector;
  config.seg_max = kSegMaxValue;
  config.blk_size = kSector;
  config.writeback = writeback_ ? 1 : 0;
  config.num_queues = options_.queues;
  config.max_discard_sectors = kMaxRangeSectors;
  config.max_discard_seg = kMaxRanges;
  config.discard_sector_alignment = 1;
  config.max_write_zeroes_sectors = kMaxRangeSectors;
  config.max_write_zeroes_seg = kMaxRanges;
  config.write_zeroes_may_unmap = 1;
  const auto bytes = std::as_bytes(std::span(&config, 1)).first(kConfigSize);
  return {bytes.begin(), bytes.end()};
}

absl::Status ModelBlk::write_config(uint32_t offset,
                                    std::span<const std::byte> bytes,
                                    bool migration) {
  constexpr uint32_t kWriteback = offsetof(Config, writeback);
  const bool only_writeback = offset == kWriteback && bytes.size() == 1;
  if (!migration && !(only_writeback && accepted_.has(kConfigWce))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "bytes ", offset, " to ", offset + bytes.size(), " are read-only"));
  }
  // A migration restores what the driver had set; the rest is this disk's own.
  if (offset > kWriteback || offset + bytes.size() <= kWriteback) {
    return absl::OkStatus();
  }
  const auto value = std::to_integer<unsigned>(bytes[kWriteback - offset]);
  if (value > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("writeback ", value, " is neither 0 nor 1"));
  }
  writeback_ = value == 1;
  return absl::OkStatus();
}

void ModelBlk::reset() {
  accepted_ = {};
  writeback_ = true;
}

absl::Status ModelBlk::resize(uint64_t size) {
  if (::ftruncate(disk_.get(), static_cast<off_t>(size)) != 0) {
    return errno_status(errno, absl::StrCat("a disk of ", size, " bytes"));
  }
  size_ = size / kSector * kSector;
  return absl::OkStatus();
}

bool ModelBlk::within(uint64_t sector, uint64_t bytes) const {
  return bytes % kSector == 0 && sector <= size_ / kSector &&
         bytes <= size_ - sector * kSector;
}

absl::StatusOr<uint32_t> ModelBlk::handle(const ModelRequest& request) {
  Header header;
  if (copy_from(request.readable, std::as_writable_bytes(std::span(
                                      &header, 1))) != sizeof(header)) {
    return absl::InvalidArgumentError("a request without a header");
  }
  const uint64_t writable = total_size(request.writable);
  if (writable == 0) {
    return absl::InvalidArgumentError("a request without a status byte");
  }
  const uint64_t data = total_size(request.readable) - sizeof(header);
  const std::vector<ModelSegment> in = slice(request.writable, 0, writable - 1);
  const auto status =
      std::byte{run(header, slice(request.readable, sizeof(header), data), in)};
  copy_to(slice(request.writable, writable - 1, 1), std::span(&status, 1));
  return static_cast<uint32_t>(writable);
}

// Writes all of `in` whatever comes of it: the status byte lies behind it, and
// a used length counts from the first byte.
uint8_t ModelBlk::run(const Header& header, std::span<const ModelSegment> out,
                      std::span<const ModelSegment> in) {
  if (header.type == kIn) {
    const uint8_t status = transfer(header, in, false);
    if (status != kOk) clear(in);
    return status;
  }
  clear(in);
  switch (header.type) {
    case kOut:
      return transfer(header, out, true);
    case kFlushCommand:
      return features().has(kFlush) ? flush() : kUnsupported;
    case kGetId:
      return get_id(in);
    case kDiscardCommand:
    case kWriteZeroesCommand:
      return ranges(header.type, out);
    default:
      return kUnsupported;
  }
}

uint8_t ModelBlk::transfer(const Header& header,
                           std::span<const ModelSegment> data, bool to_disk) {
  if (to_disk && options_.read_only) return kIoError;
  if (!within(header.sector, total_size(data))) return kIoError;
  if (!transfer_all(disk_.get(), to_iovec(data), header.sector * kSector,
                    to_disk)) {
    return kIoError;
  }
  // Without FLUSH a driver cannot ask: then every write is durable at once.
  const bool writeback = writeback_ && accepted_.has(kFlush);
  return to_disk && !writeback ? flush() : kOk;
}

uint8_t ModelBlk::flush() {
  return ::fdatasync(disk_.get()) == 0 ? kOk : kIoError;
}

uint8_t ModelBlk::get_id(std::span<const ModelSegment> in) {
  std::array<char, kIdSize> id = {};
  std::memcpy(id.data(), options_.id.data(),
              std::min(options_.id.size(), id.size()));
  if (total_size(in) < kIdSize) return kIoError;
  copy_to(in, std::as_bytes(std::span(id)));
  return kOk;
}

uint8_t ModelBlk::ranges(uint32_t type, std::span<const ModelSegment> out) {
  const unsigned feature = type == kDiscardCommand ? kDiscard : kWriteZeroes;
  if (!features().has(feature)) return kUnsupported;
  const uint64_t size = total_size(out);
  if (size == 0 || size % sizeof(Range) != 0 ||
      size / sizeof(Range) > kMaxRanges) {
    return kIoError;
  }
  std::vector<Range> all(size / sizeof(Range));
  copy_from(out, std::as_writable_bytes(std::span(all)));
  for (const Range& range : all) {
    const uint8_t status =
        clear_range(type, range.sector, range.sectors, range.flags);
    if (status != kOk) return status;
  }
  return kOk;
}

uint8_t ModelBlk::clear_range(uint32_t type, uint64_t sector, uint32_t sectors,
                              uint32_t flags) {
  const bool discard = type == kDiscardCommand;
  if ((flags & ~kUnmapFlag) != 0) return kUnsupported;
  if (discard && flags != 0) return kUnsupported;
  const uint64_t bytes = sectors * kSector;
  if (sectors > kMaxRangeSectors || !within(sector, bytes)) return kIoError;
  if (bytes == 0) return kOk;
  const auto offset = static_cast<off_t>(sector * kSector);
  const bool punched =
      (discard || flags == kUnmapFlag) &&
      ::fallocate(disk_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  offset, static_cast<off_t>(bytes)) == 0;
  // A discard is a hint, zeroes are not.
  if (punched || discard) return kOk;
  return zero(sector * kSector, bytes).ok() ? kOk : kIoError;
}

absl::Status ModelBlk::zero(uint64_t offset, uint64_t bytes) {
  static constexpr std::array<std::byte, 65536> kZeroes = {};
  while (bytes > 0) {
    const ssize_t done = ::pwrite(disk_.get(), kZeroes.data(),
                                  std::min<uint64_t>(bytes, kZeroes.size()),
                                  static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return errno_status(errno, "pwrite");
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<uint64_t>(done);
  }
  return absl::OkStatus();
}

}  // namespace vhost::testing
