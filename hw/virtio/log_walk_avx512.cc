// SPDX-License-Identifier: Apache-2.0
// A file of its own: what is compiled for one processor must not be shared with
// code for all.
#include "hw/virtio/log_walk.h"

#if defined(__x86_64__)
// g++ 12 takes the undefined vectors of these headers for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "hw/virtio/log_pairs.h"

namespace vhost {
namespace {

// Not seen by the thread sanitizer: it is a look at what others change.
__attribute__((target("avx512f,avx512vl,popcnt"), no_sanitize("thread"))) size_t
find(const uint64_t* words, size_t count, uint32_t* found) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  size_t n = 0;
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m512i eight[4] = {
        _mm512_loadu_si512(words + i), _mm512_loadu_si512(words + i + 8),
        _mm512_loadu_si512(words + i + 16), _mm512_loadu_si512(words + i + 24)};
    const __m512i any = _mm512_or_si512(_mm512_or_si512(eight[0], eight[1]),
                                        _mm512_or_si512(eight[2], eight[3]));
    if (_mm512_test_epi64_mask(any, any) == 0) continue;
    for (size_t j = 0; j < 4; ++j) {
      const __mmask8 dirty = _mm512_test_epi64_mask(eight[j], eight[j]);
      const __m256i base = _mm256_set1_epi32(static_cast<int>(i + 8 * j));
      // All eight, and the ones too many are written over.
      _mm256_storeu_si256(
          reinterpret_cast<__m256i*>(found + n),
          _mm256_maskz_compress_epi32(dirty, _mm256_add_epi32(base, places)));
      n += static_cast<size_t>(__builtin_popcountll(dirty));
    }
  }
  for (; i < count; ++i) {
    found[n] = static_cast<uint32_t>(i);
    n += words[i] != 0;
  }
  return n;
}

[[gnu::target("popcnt,cx16")]] LogWalk::Taken take(uint64_t* words,
                                                   const uint32_t* found,
                                                   size_t count,
                                                   uint64_t first_page,
                                                   DirtyWord* taken) {
  return take_in_pairs(words, found, count, first_page, taken);
}

[[gnu::target("popcnt")]] LogWalk::Taken take_detached(uint64_t* words,
                                                       const uint32_t* found,
                                                       size_t count,
                                                       uint64_t first_page,
                                                       DirtyWord* taken) {
  return take_all_detached(words, found, count, first_page, taken);
}

constexpr LogWalk kWalk = {.name = "avx512",
                           .find = find,
                           .take = take,
                           .take_detached = take_detached};

}  // namespace

const LogWalk* const kAvx512LogWalk = &kWalk;

}  // namespace vhost

#pragma GCC diagnostic pop
#else

namespace vhost {

const LogWalk* const kAvx512LogWalk = nullptr;

}  // namespace vhost

#endif  // __x86_64__
