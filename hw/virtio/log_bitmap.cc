// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/log_bitmap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/log_take.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// A bitmap's size is a multiple of this: a page, which is what is mapped.
constexpr uint64_t kSizeStep = 4096;

constexpr uint64_t kPageWords = LogHoles::kPageSize / sizeof(uint64_t);

constexpr uint64_t kAll = ~uint64_t{0};

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

absl::Status LogBitmap::check_shared() {
  const absl::StatusOr<UniqueFd> made = make_sealed_memfd(kSizeStep);
  return made.ok() ? absl::OkStatus() : no_log(made.status(), kSizeStep);
}

LogBitmap::LogBitmap(UniqueFd fd, uint64_t* words, uint64_t count,
                     const LogWalk& walk)
    : fd_(std::move(fd)), words_(words), count_(count), walk_(walk) {
  if (fd_.valid()) holes_.emplace(size() / LogHoles::kPageSize);
}

absl::StatusOr<std::shared_ptr<LogBitmap>> LogBitmap::create(
    uint64_t size, Sharing sharing, const LogWalk& walk) {
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
  return std::shared_ptr<LogBitmap>(
      new LogBitmap(std::move(fd), static_cast<uint64_t*>(base),
                    size / sizeof(uint64_t), walk));
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
    return in_log_order(ref.exchange(0, std::memory_order_acq_rel));
  }
  return in_log_order(
             ref.fetch_and(in_log_order(~mask), std::memory_order_acq_rel)) &
         mask;
}

void LogBitmap::put(uint64_t word, uint64_t bits) {
  // ORDER: after the write that the bits tell of.
  std::atomic_ref(words_[word])
      .fetch_or(in_log_order(bits), std::memory_order_release);
}

template <typename Visit>
void LogBitmap::each_in_use(Words words, Visit visit) {
  if (!holes_.has_value()) return visit(words);
  const uint64_t end_page = (words.end - 1) / kPageWords + 1;
  for (uint64_t page = words.first / kPageWords; page < end_page;) {
    const std::optional<LogHoles::Stretch> found =
        holes_->next(fd_, page, end_page);
    if (!found.has_value()) return;
    visit({.first = std::max(words.first, found->first * kPageWords),
           .end = std::min(words.end, found->end * kPageWords)});
    page = found->end;
  }
}

uint64_t LogBitmap::harvest(PageRange range, DirtySink& sink, Writers writers) {
  const uint64_t begin = range.first / kLogWordPages;
  if (begin >= count_) return 0;
  const bool whole = range.last / kLogWordPages >= count_;
  const uint64_t last = whole ? count_ - 1 : range.last / kLogWordPages;
  // The bits outside the range belong to who asks for the neighbours.
  const uint64_t first_mask = kAll << range.first % kLogWordPages;
  const uint64_t last_mask =
      whole ? kAll : kAll >> (kLogWordPages - 1 - range.last % kLogWordPages);

  uint64_t pages = 0;
  each_in_use({.first = begin, .end = last + 1}, [&](Words words) {
    const auto mask_of = [&](uint64_t word) {
      return (word == begin ? first_mask : kAll) &
             (word == last ? last_mask : kAll);
    };
    if (const uint64_t mask = mask_of(words.first); mask != kAll) {
      pages += harvest_part(words.first++, mask, sink);
    }
    if (words.first == words.end) return;
    const uint64_t mask = mask_of(words.end - 1);
    if (mask != kAll) --words.end;
    pages += harvest_words(words, writers, sink);
    if (mask != kAll) pages += harvest_part(words.end, mask, sink);
  });
  return pages;
}

// A word that is not the range's alone.
uint64_t LogBitmap::harvest_part(uint64_t word, uint64_t mask,
                                 DirtySink& sink) {
  if ((in_log_order(load(word)) & mask) == 0) return 0;
  const DirtyWord dirty = {.first_page = word * kLogWordPages,
                           .bits = take(word, mask)};
  if (dirty.bits == 0) return 0;  // Somebody else was here.
  sink.dirty_words({&dirty, 1});
  return static_cast<uint64_t>(std::popcount(dirty.bits));
}

// Most words are clean: a plain read, not a write to a cache line that a
// back-end uses.  The others are taken a block at a time, because a sink's
// stores do not overlap with the exchanges.
uint64_t LogBitmap::harvest_words(Words words, Writers writers,
                                  DirtySink& sink) {
  const auto take =
      writers == Writers::kNone ? walk_.take_detached : walk_.take;
  std::array<uint32_t, kLogBlock + kLogSlack> found;
  std::array<DirtyWord, kLogBlock> dirty;
  uint64_t pages = 0;
  while (words.first < words.end) {
    const uint64_t block = std::min(words.end - words.first, kLogBlock);
    uint64_t* const at = words_ + words.first;
    if (const size_t count = walk_.find(at, block, found.data()); count > 0) {
      const LogWalk::Taken taken = take(
          at, found.data(), count, words.first * kLogWordPages, dirty.data());
      pages += taken.pages;
      if (taken.words > 0) {
        sink.dirty_words(std::span(dirty).first(taken.words));
      }
    }
    words.first += block;
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
  std::array<uint32_t, kLogBlock + kLogSlack> found;
  const Words shared = {.first = 0, .end = std::min(count_, other.count_)};
  other.each_in_use(shared, [&](Words words) {
    while (words.first < words.end) {
      const uint64_t block = std::min(words.end - words.first, kLogBlock);
      const size_t count =
          other.walk_.find(other.words_ + words.first, block, found.data());
      for (size_t i = 0; i < count; ++i) {
        const uint64_t word = words.first + found[i];
        const uint64_t bits = in_log_order(other.load(word));
        // ORDER: here first, so that a page is never dirty in neither.
        put(word, bits);
        other.take(word, bits);
      }
      words.first += block;
    }
  });
}

}  // namespace vhost
