// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/log_walk.h"

#include <array>

#include "hw/virtio/log_take.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vhost {
namespace {

uint64_t look(const uint64_t* word) {
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}

size_t find(const uint64_t* words, size_t count, uint32_t* found) {
  size_t n = 0;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const std::array<uint64_t, 4> four = {look(words + i), look(words + i + 1),
                                          look(words + i + 2),
                                          look(words + i + 3)};
    if ((four[0] | four[1] | four[2] | four[3]) == 0) continue;
    for (size_t j = 0; j < four.size(); ++j) {
      found[n] = static_cast<uint32_t>(i + j);
      n += four[j] != 0;
    }
  }
  for (; i < count; ++i) {
    found[n] = static_cast<uint32_t>(i);
    n += look(words + i) != 0;
  }
  return n;
}

LogWalk::Taken take(uint64_t* words, const uint32_t* found, size_t count,
                    uint64_t first_page, DirtyWord* taken) {
  LogTaker taker(words, first_page, taken);
  for (size_t i = 0; i < count; ++i) taker.take(found[i]);
  return taker.done();
}

LogWalk::Taken take_detached(uint64_t* words, const uint32_t* found,
                             size_t count, uint64_t first_page,
                             DirtyWord* taken) {
  return take_all_detached(words, found, count, first_page, taken);
}

constexpr LogWalk kPortable = {.name = "portable",
                               .find = find,
                               .take = take,
                               .take_detached = take_detached};

struct Walks {
  std::array<const LogWalk*, 3> walks = {&kPortable};
  size_t count = 1;
};

// The thread sanitizer has a lock for exchanges of 16 bytes, which those of 8
// do not take: under it the others lose bits.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VHOSTDEV_ONLY_PORTABLE_WALK
#endif
#endif

Walks find_walks() {
  Walks out;
#if defined(__x86_64__) && !defined(VHOSTDEV_ONLY_PORTABLE_WALK)
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  const bool pairs =
      __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_CMPXCHG16B);
  if (!pairs || !__builtin_cpu_supports("popcnt")) return out;
  if (__builtin_cpu_supports("avx2")) out.walks[out.count++] = kAvx2LogWalk;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
    out.walks[out.count++] = kAvx512LogWalk;
  }
#endif
  return out;
}

const Walks& walks() {
  static const Walks found = find_walks();
  return found;
}

}  // namespace

std::span<const LogWalk* const> log_walks() {
  return std::span(walks().walks).first(walks().count);
}

const LogWalk& best_log_walk() { return *log_walks().back(); }

}  // namespace vhost
