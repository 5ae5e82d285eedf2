// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_WALK_H_
#define HW_VIRTIO_LOG_WALK_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "vhostdev/vhost_log.h"

namespace vhost {

// Words that are looked at in one go: a page of a bitmap.
inline constexpr size_t kLogBlock = 512;

// A finder may write this many entries behind the last one it found.
inline constexpr size_t kLogSlack = 8;

// How the words of a dirty log are looked through, on one kind of processor.
// Back-ends set bits meanwhile.  Stateless; any thread.
struct LogWalk {
  const char* name;  // "avx2"; a literal.

  // Writes the indices of those of `count` words that are not 0 to `found`,
  // ascending, and returns how many there are.  `count` is at most kLogBlock,
  // `found` has room for `count` + kLogSlack.  A plain look: a word that turns
  // dirty meanwhile may be missed.
  size_t (*find)(const uint64_t* words, size_t count, uint32_t* found);

  // Takes what is in words[found[i]], for `count` ascending indices: each is 0
  // for a moment, and whatever was set before is in `taken`, words that were 0
  // left out.  `first_page` is that of words[0].  No wait and no retry without
  // an end, whatever a back-end does.
  struct Taken {
    size_t words = 0;
    uint64_t pages = 0;
  };
  Taken (*take)(uint64_t* words, const uint32_t* found, size_t count,
                uint64_t first_page, DirtyWord* taken);
  // The same where nobody else writes the words, without atomic operations.
  Taken (*take_detached)(uint64_t* words, const uint32_t* found, size_t count,
                         uint64_t first_page, DirtyWord* taken);
};

// The fastest of log_walks().
const LogWalk& best_log_walk();

// Those that this processor can do, the slowest and most portable first.
std::span<const LogWalk* const> log_walks();

// One file each.  Of another processor's: null.
extern const LogWalk* const kAvx2LogWalk;
extern const LogWalk* const kAvx512LogWalk;

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_WALK_H_
