// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_HOLES_H_
#define HW_VIRTIO_LOG_HOLES_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "vhostdev/unique_fd.h"

namespace vhost {

// Which pages of a bitmap's memfd hold anything.  The others are holes, all
// zero: to read one would cost a page fault and a page of memory.  What was
// seen to hold something is not asked for again, so a bitmap in full use costs
// nothing here; a hole may be filled at any time, so holes are asked for each
// time.  Any thread.
class LogHoles {
 public:
  static constexpr uint64_t kPageSize = 4096;

  // Pages of one stretch, the last excluded.
  struct Stretch {
    uint64_t first = 0;
    uint64_t end = 0;
  };

  // `pages`: of the whole file.
  explicit LogHoles(uint64_t pages) : known_((pages + 63) / 64) {}

  // The first stretch of [first, end) that may hold something; nothing if that
  // is all holes.  Where the file cannot tell, it may hold something.  One or
  // two lseek(), which wait for nobody, or none.
  std::optional<Stretch> next(FdRef file, uint64_t first, uint64_t end);

 private:
  bool known(uint64_t page) const;
  uint64_t end_of_known(uint64_t first, uint64_t end) const;
  void learn(uint64_t first, uint64_t end);

  std::vector<std::atomic<uint64_t>> known_;  // A bit for each page.
};

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_HOLES_H_
