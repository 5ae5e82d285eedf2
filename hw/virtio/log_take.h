// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_LOG_TAKE_H_
#define HW_VIRTIO_LOG_TAKE_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "hw/virtio/log_walk.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// Back-ends count bits within bytes; a word of a little-endian machine has
// them in the same order.
constexpr uint64_t in_log_order(uint64_t word) {
  if constexpr (std::endian::native == std::endian::little) return word;
  return __builtin_bswap64(word);
}

// What LogWalk::take() is made of.  Inlined, so that a caller that is compiled
// for a better processor counts with its instructions.
class LogTaker {
 public:
  LogTaker(uint64_t* words, uint64_t first_page, DirtyWord* taken)
      : words_(words), first_page_(first_page), taken_(taken) {}

  [[gnu::always_inline]] inline void take(uint32_t index) {
    // ORDER: what a back-end wrote before it set a bit is visible to who clears
    // it; and the clearing comes before the page is read, so that a write after
    // that sets the bit again.
    note(index, __atomic_exchange_n(words_ + index, 0, __ATOMIC_ACQ_REL));
  }

  // Where nobody writes.
  [[gnu::always_inline]] inline void take_detached(uint32_t index) {
    note(index, __atomic_load_n(words_ + index, __ATOMIC_RELAXED));
    __atomic_store_n(words_ + index, uint64_t{0}, __ATOMIC_RELAXED);
  }

  [[gnu::always_inline]] inline void note(uint32_t index, uint64_t word) {
    DirtyWord& out = taken_[done_.words];
    out.first_page = first_page_ + index * kLogWordPages;
    out.bits = in_log_order(word);
    // No branch: it would be guessed wrong as often as right.
    done_.words += word != 0;
    done_.pages += static_cast<uint64_t>(__builtin_popcountll(word));
  }

  const LogWalk::Taken& done() const { return done_; }

 private:
  uint64_t* const words_;
  const uint64_t first_page_;
  DirtyWord* const taken_;
  LogWalk::Taken done_;
};

// The whole of LogWalk::take_detached().
[[gnu::always_inline]] inline LogWalk::Taken take_all_detached(
    uint64_t* words, const uint32_t* found, size_t count, uint64_t first_page,
    DirtyWord* taken) {
  LogTaker taker(words, first_page, taken);
  for (size_t i = 0; i < count; ++i) taker.take_detached(found[i]);
  return taker.done();
}

}  // namespace vhost

#endif  // HW_VIRTIO_LOG_TAKE_H_
