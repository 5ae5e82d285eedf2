// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_RAM_SENDER_H_
#define MIGRATION_RAM_SENDER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/dirty_tracker.h"
#include "migration/ram_extent.h"
#include "vhostdev/migration.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/migration_stream.h"

namespace vhost {

// Whether all bytes are zero.  Whole words.
bool is_zero(std::span<const std::byte> bytes);

// Makes records of dirty pages.  Pages that are all zero cost no payload, and
// stretches of them one record; a hole is not even looked at (ram_extent.h).
class RamSender {
 public:
  // Pages of one record, and of one fill().
  static constexpr uint64_t kRecordPages = 64;
  static constexpr uint64_t kTurnPages = 256;

  // Borrowed; outlive this.
  RamSender(DirtyTracker& tracker, StreamWriter& writer)
      : tracker_(tracker), writer_(writer) {}

  // Appends some of what is dirty: one record of pages, or a MiB of zeros
  // looked at.  False: nothing is dirty any more, and all is appended.
  absl::StatusOr<bool> fill();

  uint64_t moved() const { return moved_; }  // Bytes, zeros included.
  uint64_t zeros() const { return zeros_; }  // Bytes.

 private:
  // How many pages were looked at; a hole counts as one.
  absl::StatusOr<uint64_t> append(const DirtyTracker::Piece& piece);
  RamExtent extent(const MigrationRam& block, uint64_t first, uint64_t count);
  absl::Status append_data(const MigrationRam& block, uint64_t first,
                           uint64_t count);
  absl::Status append_pages(const MigrationRam& block, uint64_t first,
                            uint64_t count);
  absl::Status add_zeros(uint32_t block, uint64_t first, uint64_t count);
  absl::Status flush_zeros();

  DirtyTracker& tracker_;
  StreamWriter& writer_;
  // Of each block the pages, from its first on, that are read: the file had
  // them, or they were sent as a hole and are dirty once more.
  std::map<uint32_t, uint64_t> known_;
  uint32_t zero_block_ = 0;
  RamZeroPages zero_run_;  // Not appended yet.
  uint64_t moved_ = 0;
  uint64_t zeros_ = 0;
};

// Hashes RAM blocks one after the other, a piece at a time.
class RamHasher {
 public:
  explicit RamHasher(std::map<uint32_t, MigrationRam> blocks)
      : blocks_(std::move(blocks)) {}

  struct Hashed {
    uint32_t block = 0;
    RamHash hash;
  };
  bool over() const { return blocks_.empty(); }
  // Goes on by some MiB; a block when it is complete.
  std::optional<Hashed> step();

 private:
  std::span<const std::byte> piece(const MigrationRam& block, uint64_t at,
                                   uint64_t size);

  std::map<uint32_t, MigrationRam> blocks_;  // The first one is under way.
  uint64_t at_ = 0;
  uint64_t hash_ = 0;
  std::vector<std::byte> copy_;  // Of a piece with holes.
};

}  // namespace vhost

#endif  // MIGRATION_RAM_SENDER_H_
