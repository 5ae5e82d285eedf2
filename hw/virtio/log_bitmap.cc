// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/log_bitmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// A bitmap's size is a multiple of this: a page, which is what is mapped.
constexpr uint64_t kSizeStep = 4096;

constexpr uint64_t kAll = ~uint64_t{0};

// Back-ends count bits within bytes; a word of a little-endian machine has
// them in the same order.
constexpr uint64_t in_order(uint64_t word) {
  if constexpr (std::endian::native == std::endian::little) return word;
  return __builtin_bswap64(word);
}

absl::StatusOr<UniqueFd> make_sealed_memfd(uint64_t size) {
  UniqueFd fd(::memfd_create("vhost-log", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return errno_status(errno, "memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return errno_status(errno, absl::StrCat("ftruncate to ", size, " bytes"));
  }
  // A back-end that could shrink the file could kill us with SIGBUS.
  constexpr int kSeals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) {
    return errno_status(errno, "F_ADD_SEALS");
  }
  return fd;
}

// Whatever the reason, there is no log.
absl::Status no_log(const absl::Status& why, uint64_t size) {
  return absl::ResourceExhaustedError(
      absl::StrCat("dirty log of ", size, " bytes: ", why.message()));
}

}  // namespace

absl::StatusOr<uint64_t> LogBitmap::size_for(uint64_t last_address) {
  const uint64_t words = last_address / kLogWordSpan + 1;
  if (words > kMaxLogSize / sizeof(uint64_t)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "guest address 0x", absl::Hex(last_address), " needs a dirty log of ",
        words, " words; at most ", kMaxLogSize, " bytes"));
  }
  return (words * sizeof(uint64_t) + kSizeStep - 1) / kSizeStep * kSizeStep;
}

absl::StatusOr<std::shared_ptr<LogBitmap>> LogBitmap::create(uint64_t size,
                                                             Sharing sharing) {
  if (size == 0 || size % kSizeStep != 0 || size > kMaxLogSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("dirty log of ", size, " bytes"));
  }
  UniqueFd fd;
  if (sharing == Sharing::kShared) {
    absl::StatusOr<UniqueFd> made = make_sealed_memfd(size);
    if (!made.ok()) return no_log(made.status(), size);
    fd = *std::move(made);
  }
  const int flags =
      (fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE;
  void* base =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd.get(), 0);
  if (base == MAP_FAILED) return no_log(errno_status(errno, "mmap"), size);
  return std::shared_ptr<LogBitmap>(new LogBitmap(
      std::move(fd), static_cast<uint64_t*>(base), size / sizeof(uint64_t)));
}

LogBitmap::~LogBitmap() { ::munmap(words_, size()); }

LogArea LogBitmap::area() const {
  LogArea area;
  area.size = size();
  area.fd = fd_;
  area.base = words_;
  return area;
}

uint64_t LogBitmap::load(uint64_t word) const {
  return std::atomic_ref(words_[word]).load(std::memory_order_relaxed);
}

// Clears the bits of `mask` and returns which of them were set.
uint64_t LogBitmap::take(uint64_t word, uint64_t mask) {
  // ORDER: what a back-end wrote before it set a bit is visible to who clears
  // it; and the clearing comes before the page is read, so that a write after
  // that sets the bit again.
  const std::atomic_ref ref(words_[word]);
  if (mask == kAll) {
    return in_order(ref.exchange(0, std::memory_order_acq_rel));
  }
  return in_order(ref.fetch_and(in_order(~mask), std::memory_order_acq_rel)) &
         mask;
}

void LogBitmap::put(uint64_t word, uint64_t bits) {
  // ORDER: after the write that the bits tell of.
  std::atomic_ref(words_[word])
      .fetch_or(in_order(bits), std::memory_order_release);
}

uint64_t LogBitmap::harvest(PageRange range, DirtySink& sink) {
  const uint64_t begin = range.first / kLogWordPages;
  if (begin >= count_) return 0;
  const bool whole = range.last / kLogWordPages >= count_;
  const uint64_t end = whole ? count_ - 1 : range.last / kLogWordPages;
  // The bits outside the range belong to who asks for the neighbours.
  const uint64_t first_mask = kAll << range.first % kLogWordPages;
  const uint64_t last_mask =
      whole ? kAll : kAll >> (kLogWordPages - 1 - range.last % kLogWordPages);

  uint64_t pages = 0;
  for (uint64_t word = begin; word <= end; ++word) {
    // Most words are clean: a plain read, not a write to a cache line that a
    // back-end uses.
    if (load(word) == 0) continue;
    uint64_t mask = word == begin ? first_mask : kAll;
    if (word == end) mask &= last_mask;
    if ((in_order(load(word)) & mask) == 0) continue;
    const uint64_t bits = take(word, mask);
    if (bits == 0) continue;  // Somebody else was here.
    pages += static_cast<uint64_t>(std::popcount(bits));
    sink.dirty(word * kLogWordPages, bits);
  }
  return pages;
}

void LogBitmap::mark(PageRange range) {
  const uint64_t limit = count_ * kLogWordPages - 1;
  const uint64_t last = std::min(range.last, limit);
  for (uint64_t page = range.first; page <= last;) {
    const uint64_t word = page / kLogWordPages;
    const uint64_t until =
        std::min(last, word * kLogWordPages + (kLogWordPages - 1));
    put(word, (kAll << page % kLogWordPages) &
                  (kAll >> (kLogWordPages - 1 - until % kLogWordPages)));
    page = until + 1;
  }
}

void LogBitmap::absorb(LogBitmap& other) {
  const uint64_t count = std::min(count_, other.count_);
  for (uint64_t word = 0; word < count; ++word) {
    const uint64_t bits = in_order(other.load(word));
    if (bits == 0) continue;
    // ORDER: here first, so that a page is never dirty in neither.
    put(word, bits);
    other.take(word, bits);
  }
}

}  // namespace vhost
