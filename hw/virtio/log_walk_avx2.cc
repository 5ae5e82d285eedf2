// SPDX-License-Identifier: Apache-2.0
// A file of its own: what is compiled for one processor must not be shared with
// code for all.
#include "hw/virtio/log_walk.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <array>

#include "hw/virtio/log_pairs.h"

namespace vhost {
namespace {

// The places of the bits of a four-bit mask.
struct alignas(16) Places {
  std::array<uint32_t, 4> at = {};
};
constexpr std::array<Places, 16> kPlaces = [] {
  std::array<Places, 16> out = {};
  for (uint32_t mask = 0; mask < out.size(); ++mask) {
    size_t n = 0;
    for (uint32_t bit = 0; bit < 4; ++bit) {
      if ((mask >> bit & 1) != 0) out[mask].at[n++] = bit;
    }
  }
  return out;
}();

// Not seen by the thread sanitizer: it is a look at what others change.
__attribute__((target("avx2,popcnt"), no_sanitize("thread"))) size_t find(
    const uint64_t* words, size_t count, uint32_t* found) {
  const __m256i zero = _mm256_setzero_si256();
  size_t n = 0;
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i four[8];
    __m256i any = zero;
    for (size_t j = 0; j < 8; ++j) {
      four[j] = _mm256_loadu_si256(
          reinterpret_cast<const __m256i*>(words + i + 4 * j));
      any = _mm256_or_si256(any, four[j]);
    }
    if (_mm256_testz_si256(any, any) != 0) continue;
    for (size_t j = 0; j < 8; ++j) {
      const __m256d clean =
          _mm256_castsi256_pd(_mm256_cmpeq_epi64(four[j], zero));
      const auto dirty = static_cast<size_t>(_mm256_movemask_pd(clean) ^ 15);
      const __m128i places =
          _mm_load_si128(reinterpret_cast<const __m128i*>(&kPlaces[dirty]));
      const __m128i base = _mm_set1_epi32(static_cast<int>(i + 4 * j));
      // All four, and the ones too many are written over.
      _mm_storeu_si128(reinterpret_cast<__m128i*>(found + n),
                       _mm_add_epi32(base, places));
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

constexpr LogWalk kWalk = {
    .name = "avx2", .find = find, .take = take, .take_detached = take_detached};

}  // namespace

const LogWalk* const kAvx2LogWalk = &kWalk;

}  // namespace vhost

#else

namespace vhost {

const LogWalk* const kAvx2LogWalk = nullptr;

}  // namespace vhost

#endif  // __x86_64__
