// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_SET_H_
#define HW_VIRTIO_LOG_SET_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "hw/virtio/log_bitmap.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// The set of bitmaps behind a VhostLog.  All but the harvesting happens on the
// loop's thread.  The mutex guards the set, not the bits: it is held for as
// long as it takes to copy a few pointers.
//
// A bitmap's life:
//
//   current --replace--> replaced, held by devices --they let go--> free
//   free --harvest--> gone
//   current --detach--> the same, but
//   free --harvest, no atomics--> swept --harvest--> spare --> current
struct VhostLog::Impl {
  using Bitmap = std::shared_ptr<LogBitmap>;

  // Bitmaps that may wait for the harvest that lets go of them.  More than
  // that, and the loop's thread does what the harvest did not come for.
  static constexpr size_t kMostWaiting = 8;

  // Whether the log is on.  One load: every change of memory asks.
  bool active() const { return active_.load(std::memory_order_acquire); }

  // Where devices are to log; null while the log is off.
  Bitmap current() const;

  // From now on devices are told of `next`.  What it replaces stays part of
  // the log as long as somebody else holds it, and for one harvest more.
  void replace(Bitmap next);

  // The same for a `next` of the same size, for a harvest without atomic
  // operations of what it replaces, which becomes the spare one later.
  void detach(Bitmap next);

  // An empty bitmap as large as the current one that nobody has, if there is
  // one; it is not the spare one any more.
  Bitmap take_spare();

  // A device let go of a bitmap.
  void tidy();

  // Off: everything in it is forgotten.
  void stop();

  // VhostLog::harvest().
  uint64_t harvest(PageRange range, DirtySink& sink);

  // All bitmaps, the current one last; not the spare one.
  std::vector<Bitmap> members() const;

 private:
  struct Replaced {
    Bitmap bitmap;
    bool detached = false;
    bool swept = false;  // Once, after everybody had let go of it.
  };
  // All bitmaps, at one moment.
  struct Members {
    std::vector<Bitmap> held;
    std::vector<Replaced> free;  // No device writes there any more.
    Bitmap current;
  };

  void replace(Bitmap next, bool detached);
  Members look() const;
  void step(const std::vector<Replaced>& harvested);

  mutable absl::Mutex mutex_;
  Bitmap current_ ABSL_GUARDED_BY(mutex_);
  Bitmap spare_ ABSL_GUARDED_BY(mutex_);
  std::vector<Replaced> replaced_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> active_ = false;  // Written under mutex_.
};

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_SET_H_
