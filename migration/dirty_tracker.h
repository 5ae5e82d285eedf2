// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_DIRTY_TRACKER_H_
#define MIGRATION_DIRTY_TRACKER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/dirty_bitmap.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/migration.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// What of a guest's memory is still to be sent: a bitmap for each RAM block,
// fed by the vhost log and by the VMM's providers.  Loop thread.
//
// ORDER: a page's bit is taken before the page is read, and the log's before
// that; so a write that the copy misses is found by the next sync().
class DirtyTracker {
 public:
  // Borrowed; outlives this.
  explicit DirtyTracker(VhostContext& context) : context_(context) {}
  // Turns everything off.
  ~DirtyTracker();
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;

  // Turns on the log of all devices and, once each of them has it, `providers`;
  // `done` then.  On an error nothing stays on but what disable() turns off.
  // Errors: kFailedPrecondition  the log is on already: somebody else's.
  //         of a device that cannot log, or of a provider.
  void enable(std::vector<DirtyProvider*> providers, Completion done);

  // Turns off what enable() turned on, or is about to.  May be called at any
  // time.
  void disable();

  // What the guest's memory consists of now; blocks that were added are dirty
  // whole.  The added ones.
  // Errors: kInvalidArgument     a block is empty, not of whole pages, not
  //                              inside its region, overlaps another one, or
  //                              is another one than had its id.
  //         kFailedPrecondition  one is gone.
  absl::StatusOr<std::vector<RamBlock>> set_blocks(
      std::vector<MigrationRam> blocks);
  const std::map<uint32_t, MigrationRam>& blocks() const { return blocks_; }
  uint64_t ram_size() const;  // Bytes.

  // Takes what was written since the last time from the log and all providers.
  absl::Status sync();
  // The same from the log alone: the pages it had, new or not.
  uint64_t sync_log();

  // A piece of one block that was dirty, and is not any more.
  struct Piece {
    const MigrationRam* block = nullptr;
    DirtyBitmap::Run pages;
  };
  // The next one of at most `most` pages; empty: nothing is dirty.
  std::optional<Piece> take(uint64_t most);

  uint64_t dirty() const;  // Bytes.

  // What each source of pages told since enable(), the log first.
  struct Told {
    std::string name;
    uint64_t bytes = 0;
  };
  std::vector<Told> told() const;

 private:
  class Sink;
  struct Source {
    DirtyProvider* provider = nullptr;
    bool enabled = false;
    uint64_t pages = 0;
  };

  absl::Status enable_providers();

  VhostContext& context_;
  bool logging_ = false;
  std::vector<Source> sources_;
  uint64_t log_pages_ = 0;
  std::map<uint32_t, MigrationRam> blocks_;  // By id.
  std::map<uint32_t, DirtyBitmap> bitmaps_;
  std::map<uint64_t, DirtyBitmap*> by_end_;  // By the guest page behind it.
  uint32_t turn_ = 0;                        // Block whose pages come next.
  // Completions of the context's may come after this is gone.
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vhost

#endif  // MIGRATION_DIRTY_TRACKER_H_
