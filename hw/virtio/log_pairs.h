// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_PAIRS_H_
#define HW_VIRTIO_LOG_PAIRS_H_

#include <cstddef>
#include <cstdint>

#include "hw/virtio/log_take.h"

namespace vhost {

// Two words at once cost what one does.
__extension__ using LogPair = unsigned __int128;

// Takes words `index` and `index` + 1, the first at a multiple of 16 bytes.
// Only in functions that are compiled for cx16.
[[gnu::always_inline]] inline void take_pair(uint64_t* words, uint32_t index,
                                             LogTaker& taker) {
  uint64_t* const low = words + index;
  const uint64_t first = __atomic_load_n(low, __ATOMIC_RELAXED);
  const uint64_t second = __atomic_load_n(low + 1, __ATOMIC_RELAXED);
  const LogPair both = LogPair{second} << 64 | first;
  // Once: a back-end that goes on setting bits could keep us here for ever.
  if (__sync_bool_compare_and_swap(reinterpret_cast<LogPair*>(low), both,
                                   LogPair{0})) {
    taker.note(index, first);
    taker.note(index + 1, second);
    return;
  }
  taker.take(index);
  taker.take(index + 1);
}

// The whole of LogWalk::take() for who has pairs.
[[gnu::always_inline]] inline LogWalk::Taken take_in_pairs(
    uint64_t* words, const uint32_t* found, size_t count, uint64_t first_page,
    DirtyWord* taken) {
  LogTaker taker(words, first_page, taken);
  size_t i = 0;
  // Neighbours are the exception where less than half is dirty, and to look
  // for them costs more than they save.
  if (count > 1 && found[count - 1] - found[0] < 2 * count) {
    while (i + 1 < count) {
      const uint32_t index = found[i];
      const bool aligned =
          reinterpret_cast<uintptr_t>(words + index) % sizeof(LogPair) == 0;
      if (aligned && found[i + 1] == index + 1) {
        take_pair(words, index, taker);
        i += 2;
      } else {
        taker.take(index);
        i += 1;
      }
    }
  }
  for (; i < count; ++i) taker.take(found[i]);
  return taker.done();
}

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_PAIRS_H_
