// SPDX-License-Identifier: Apache-2.0

#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/progress.h"
#include "tools/vhostctl/transfer.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

absl::Status check_sectors(absl::string_view what, uint64_t bytes) {
  if (bytes % kBlkSectorSize == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      what, " of ", bytes, " bytes is not a multiple of ", kBlkSectorSize));
}

// The part of the disk that --offset and `length` mean.
// Errors: kInvalidArgument  misaligned, or past the end.
absl::StatusOr<Transfer::Range> range_of(const BlkSession& disk,
                                         uint64_t offset,
                                         std::optional<uint64_t> length,
                                         absl::string_view what) {
  const uint64_t end = disk.config().capacity_bytes();
  VHOST_RETURN_IF_ERROR(check_sectors("offset", offset));
  if (offset > end) {
    return absl::InvalidArgumentError(absl::StrCat(
        "offset of ", offset, " bytes: the disk has ", end, " bytes"));
  }
  const uint64_t wanted = length.value_or(end - offset);
  VHOST_RETURN_IF_ERROR(check_sectors(what, wanted));
  if (wanted > end - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " of ", wanted, " bytes at byte ", offset,
                     ": the disk has ", end, " bytes"));
  }
  return Transfer::Range{offset, offset + wanted};
}

// How much is left of a regular file; nothing is known of others.
std::optional<uint64_t> remaining(FdRef fd) {
  struct stat about = {};
  if (::fstat(fd.get(), &about) != 0 || !S_ISREG(about.st_mode)) {
    return std::nullopt;
  }
  const off_t at = ::lseek(fd.get(), 0, SEEK_CUR);
  if (at < 0) return std::nullopt;
  return at < about.st_size ? static_cast<uint64_t>(about.st_size - at) : 0;
}

int64_t microseconds_since(MonotonicTime begun) {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now() - begun)
      .count();
}

// The result of a copy, if it was asked for.
absl::Status report(const Options& options, uint64_t bytes, int64_t us) {
  if (!options.json) return absl::OkStatus();
  Json document = Json::object();
  document["bytes"] = bytes;
  document["us"] = us;
  return print_json(document);
}

// When the end of the disk was reached: whether the input ended there too.
absl::Status check_at_end(FdRef input, const Transfer::Range& range) {
  std::byte more{};
  const absl::StatusOr<size_t> got = read_full(input, std::span(&more, 1));
  if (!got.ok()) return got.status();
  if (*got == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "input goes on behind the end of the disk at byte ", range.end));
}

// Everything of a read but opening and closing the disk; the bytes copied.
absl::StatusOr<uint64_t> copy_from(BlkSession& disk, const Options& options) {
  const absl::StatusOr<Transfer::Range> range =
      range_of(disk, options.offset, options.length, "length");
  if (!range.ok()) return range.status();
  const absl::StatusOr<UniqueFd> output = open_output(options.output);
  if (!output.ok()) return output.status();
  absl::StatusOr<std::unique_ptr<Transfer>> transfer = Transfer::create(disk);
  if (!transfer.ok()) return transfer.status();
  Progress progress("read", range->end - range->begin);
  const auto result = (*transfer)->read(
      *range, /*in_order=*/true,
      [&](std::span<const std::byte> got, uint64_t) {
        return write_full(*output, got);
      },
      [&](uint64_t done) { progress.update(done); });
  if (!result.ok()) return result.status();
  return result->bytes;
}

// The same for a write, the flush included.
absl::StatusOr<uint64_t> copy_to(BlkSession& disk, const Options& options) {
  const absl::StatusOr<UniqueFd> input = open_input(options.input);
  if (!input.ok()) return input.status();
  const std::optional<uint64_t> known =
      options.length.has_value() ? options.length : remaining(*input);
  const absl::StatusOr<Transfer::Range> range = range_of(
      disk, options.offset, known, known.has_value() ? "length" : "disk");
  if (!range.ok()) return range.status();
  absl::StatusOr<std::unique_ptr<Transfer>> transfer = Transfer::create(disk);
  if (!transfer.ok()) return transfer.status();

  Progress progress("write", known.value_or(0));
  uint64_t read = 0;
  const auto fill = [&](std::span<std::byte> out,
                        uint64_t) -> absl::StatusOr<size_t> {
    const absl::StatusOr<size_t> got = read_full(*input, out);
    if (!got.ok()) return got;
    read += *got;
    VHOST_RETURN_IF_ERROR(check_sectors("input", read));
    return got;
  };
  const auto result = (*transfer)->write(
      *range, fill, [&](uint64_t done) { progress.update(done); });
  if (!result.ok()) return result.status();
  if (known.has_value() && result->bytes < *known) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input ended after ", result->bytes, " of ", *known, " bytes"));
  }
  if (!known.has_value()) VHOST_RETURN_IF_ERROR(check_at_end(*input, *range));
  if (disk.config().flush) VHOST_RETURN_IF_ERROR(disk.flush());
  return result->bytes;
}

}  // namespace

absl::Status run_blk_id(const Options& options) {
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  const absl::StatusOr<std::string> id = (*disk)->client().get_id();
  VHOST_RETURN_IF_ERROR((*disk)->close(annotate(id.status(), "get id")));
  if (!options.json) return print_text(absl::StrCat(printable(*id), "\n"));
  Json document = Json::object();
  document["id"] = *id;
  return print_json(document);
}

absl::Status run_blk_flush(const Options& options) {
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const absl::Status flushed = (*disk)->flush();
  const int64_t us = microseconds_since(begun);
  VHOST_RETURN_IF_ERROR((*disk)->close(flushed));
  if (!options.json) return absl::OkStatus();
  Json document = Json::object();
  document["us"] = us;
  return print_json(document);
}

absl::Status run_blk_read(const Options& options) {
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const absl::StatusOr<uint64_t> bytes = copy_from(**disk, options);
  const int64_t us = microseconds_since(begun);
  VHOST_RETURN_IF_ERROR((*disk)->close(bytes.status()));
  return report(options, *bytes, us);
}

absl::Status run_blk_write(const Options& options) {
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const absl::StatusOr<uint64_t> bytes = copy_to(**disk, options);
  const int64_t us = microseconds_since(begun);
  VHOST_RETURN_IF_ERROR((*disk)->close(bytes.status()));
  return report(options, *bytes, us);
}

}  // namespace vhost::ctl
