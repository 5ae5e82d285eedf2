// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/dma_memory.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = 4096;
// Allocations take whole cache lines, so that no two share one.
constexpr uint64_t kGrain = 64;
constexpr uint64_t kMostBytes = uint64_t{1} << 46;

constexpr uint64_t round_up(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// The lowest place for `size` bytes from `from` on.
uint64_t find_gap(const AddressSpace& memory, uint64_t from, uint64_t size) {
  uint64_t gpa = round_up(from, kPage);
  for (const MemorySection& section : memory.sections()) {
    if (section.gpa >= gpa && section.gpa - gpa >= size) break;
    gpa = std::max(gpa, round_up(section.gpa + section.size, kPage));
  }
  return gpa;
}

}  // namespace

// The memory itself.  Shared with the buffers, which may outlive the DmaMemory.
struct DmaBuffer::Pool {
  struct Chunk {
    std::shared_ptr<MemoryRegion> region;
    uint64_t gpa = 0;
    uint64_t used = 0;     // Bytes.
    uint64_t written = 0;  // Behind the last byte that was ever handed out.
    absl::btree_map<uint64_t, uint64_t> free;  // Offset to size; none touch.

    std::optional<uint64_t> take(uint64_t size, uint64_t alignment);
    // Whether [offset, offset + size) was free.
    bool take_at(uint64_t offset, uint64_t size);
    void give_back(uint64_t offset, uint64_t size);
    // Takes all that is free from `begin` to `end`.
    void retire(uint64_t begin, uint64_t end);
  };

  mutable absl::Mutex mutex;
  std::vector<Chunk> chunks ABSL_GUARDED_BY(mutex);

  std::optional<DmaSpan> take(uint64_t size, uint64_t alignment);
  std::optional<DmaSpan> take_at(uint64_t gpa, uint64_t size);
  void give_back(const DmaSpan& span);
  bool has_piece_of(uint64_t size) const;
};

std::optional<uint64_t> DmaBuffer::Pool::Chunk::take(uint64_t size,
                                                     uint64_t alignment) {
  for (const auto& [start, length] : free) {
    const uint64_t offset = round_up(start, alignment);
    const uint64_t end = start + length;
    if (offset > end || end - offset < size) continue;
    take_at(offset, size);
    return offset;
  }
  return std::nullopt;
}

bool DmaBuffer::Pool::Chunk::take_at(uint64_t offset, uint64_t size) {
  auto found = free.upper_bound(offset);
  if (found == free.begin()) return false;
  --found;
  const auto [start, length] = *found;
  const uint64_t end = start + length;
  if (offset >= end || end - offset < size) return false;
  free.erase(found);
  if (offset != start) free.emplace(start, offset - start);
  if (end - offset != size) free.emplace(offset + size, end - offset - size);
  used += size;
  written = std::max(written, offset + size);
  return true;
}

void DmaBuffer::Pool::Chunk::retire(uint64_t begin, uint64_t end) {
  std::vector<std::pair<uint64_t, uint64_t>> pieces;
  auto at = free.upper_bound(begin);
  if (at != free.begin()) --at;
  for (; at != free.end() && at->first < end; ++at) {
    const uint64_t first = std::max(at->first, begin);
    const uint64_t last = std::min(at->first + at->second, end);
    if (first < last) pieces.emplace_back(first, last - first);
  }
  for (const auto& [offset, size] : pieces) take_at(offset, size);
}

void DmaBuffer::Pool::Chunk::give_back(uint64_t offset, uint64_t size) {
  used -= size;
  auto next = free.lower_bound(offset);
  if (next != free.end() && offset + size == next->first) {
    size += next->second;
    next = free.erase(next);
  }
  if (next != free.begin()) {
    auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += size;
      return;
    }
  }
  free.emplace(offset, size);
}

std::optional<DmaSpan> DmaBuffer::Pool::take(uint64_t size,
                                             uint64_t alignment) {
  absl::MutexLock lock(&mutex);
  for (Chunk& chunk : chunks) {
    if (const auto offset = chunk.take(round_up(size, kGrain), alignment)) {
      return DmaSpan{chunk.region->host() + *offset, chunk.gpa + *offset, size};
    }
  }
  return std::nullopt;
}

std::optional<DmaSpan> DmaBuffer::Pool::take_at(uint64_t gpa, uint64_t size) {
  absl::MutexLock lock(&mutex);
  for (Chunk& chunk : chunks) {
    const uint64_t offset = gpa - chunk.gpa;
    if (gpa < chunk.gpa || offset >= chunk.region->size()) continue;
    if (!chunk.take_at(offset, round_up(size, kGrain))) return std::nullopt;
    return DmaSpan{chunk.region->host() + offset, gpa, size};
  }
  return std::nullopt;
}

bool DmaBuffer::Pool::has_piece_of(uint64_t size) const {
  absl::MutexLock lock(&mutex);
  for (const Chunk& chunk : chunks) {
    for (const auto& [start, length] : chunk.free) {
      if (length >= size) return true;
    }
  }
  return false;
}

void DmaBuffer::Pool::give_back(const DmaSpan& span) {
  absl::MutexLock lock(&mutex);
  for (Chunk& chunk : chunks) {
    if (span.gpa - chunk.gpa >= chunk.region->size()) continue;
    chunk.give_back(span.gpa - chunk.gpa, round_up(span.size, kGrain));
    return;
  }
}

DmaBuffer::DmaBuffer(std::shared_ptr<Pool> pool, DmaSpan span)
    : pool_(std::move(pool)), span_(span) {}

DmaBuffer::DmaBuffer(DmaBuffer&& other) noexcept
    : pool_(std::move(other.pool_)),
      span_(std::exchange(other.span_, {})),
      abandoned_(std::exchange(other.abandoned_, false)) {}

DmaBuffer& DmaBuffer::operator=(DmaBuffer&& other) noexcept {
  DmaBuffer taken(std::move(other));
  std::swap(pool_, taken.pool_);
  std::swap(span_, taken.span_);
  std::swap(abandoned_, taken.abandoned_);
  return *this;
}

DmaBuffer::~DmaBuffer() {
  if (pool_ != nullptr && !abandoned_) pool_->give_back(span_);
}

DmaMemory::DmaMemory(VhostContext& context, AddressSpace& memory,
                     Options options)
    : context_(context),
      memory_(memory),
      options_(options),
      pool_(std::make_shared<DmaBuffer::Pool>()) {}

DmaMemory::DmaMemory(VhostContext& context, AddressSpace& memory)
    : DmaMemory(context, memory, Options()) {}

DmaMemory::~DmaMemory() {
  absl::MutexLock lock(&pool_->mutex);
  memory_.begin();
  for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
    memory_.remove(chunk.gpa).IgnoreError();
  }
  // A device that could not follow has told its own VMM.
  memory_.commit().IgnoreError();
}

absl::StatusOr<DmaBuffer> DmaMemory::allocate(uint64_t size,
                                              uint64_t alignment) {
  if (size == 0 || !std::has_single_bit(alignment) || alignment > kPage) {
    return absl::InvalidArgumentError(
        absl::StrCat("dma memory: ", size, " bytes aligned to ", alignment));
  }
  if (size > kMostBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("dma memory: ", size, " bytes"));
  }
  std::optional<DmaSpan> span = pool_->take(size, alignment);
  if (!span.has_value()) {
    if (!context_.loop().on_loop_thread()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "dma memory: ", size, " bytes: not reserved for this thread"));
    }
    VHOST_RETURN_IF_ERROR(
        annotate(grow(size), absl::StrCat("dma memory: ", size, " bytes")));
    span = pool_->take(size, alignment);
  }
  if (!span.has_value()) {
    return absl::InternalError("dma memory: no room in a new region");
  }
  std::memset(span->data, 0, span->size);
  return DmaBuffer(pool_, *span);
}

absl::Status DmaMemory::reserve(uint64_t size) {
  if (size == 0 || size > kMostBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("dma memory: reserve ", size, " bytes"));
  }
  if (pool_->has_piece_of(size)) return absl::OkStatus();
  return annotate(grow(size),
                  absl::StrCat("dma memory: reserve ", size, " bytes"));
}

absl::StatusOr<DmaBuffer> DmaMemory::allocate_at(uint64_t gpa, uint64_t size) {
  std::optional<DmaSpan> span;
  if (size != 0 && size <= kMostBytes && gpa % kGrain == 0) {
    span = pool_->take_at(gpa, size);
  }
  if (span.has_value()) return DmaBuffer(pool_, *span);
  return absl::InvalidArgumentError(
      absl::StrCat("dma memory: ", size, " bytes at ", absl::Hex(gpa),
                   ": no piece of one region that is free"));
}

absl::Status DmaMemory::grow(uint64_t size) {
  size = round_up(std::max(size, options_.chunk_size), kPage);
  Region region;
  do {
    region.name = absl::StrCat("dma", next_name_++);
  } while (has_name(region.name));
  region.gpa = find_gap(memory_, options_.first_gpa, size);
  region.size = size;
  return add(region);
}

absl::Status DmaMemory::add_region(const Region& region) {
  const std::string what =
      absl::StrCat("dma memory: region ", region.name, " of ", region.size,
                   " bytes at ", absl::Hex(region.gpa));
  if (region.size == 0 || region.size % kPage != 0 ||
      region.size > kMostBytes || region.gpa % kPage != 0) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": no whole pages"));
  }
  if (has_name(region.name)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": is there already"));
  }
  return annotate(add(region), what);
}

bool DmaMemory::has_name(absl::string_view name) const {
  absl::MutexLock lock(&pool_->mutex);
  return std::any_of(pool_->chunks.begin(), pool_->chunks.end(),
                     [name](const DmaBuffer::Pool::Chunk& chunk) {
                       return chunk.region->name() == name;
                     });
}

absl::Status DmaMemory::add(const Region& wanted) {
  absl::StatusOr<std::shared_ptr<MemoryRegion>> region =
      MemoryRegion::create_memfd(wanted.name, wanted.size);
  if (!region.ok()) return region.status();
  MemorySection section;
  section.gpa = wanted.gpa;
  section.size = wanted.size;
  section.region = *region;
  VHOST_RETURN_IF_ERROR(context_.can_add(section));
  // What earlier changes met with is no news of this one.
  settle().IgnoreError();
  absl::Status status = memory_.add(section);
  status.Update(settle());
  if (!status.ok()) {
    // The first error is the one to tell.
    memory_.remove(section.gpa).IgnoreError();
    settle().IgnoreError();
    return status;
  }
  DmaBuffer::Pool::Chunk chunk;
  chunk.region = *std::move(region);
  chunk.gpa = section.gpa;
  chunk.free.emplace(0, wanted.size);
  absl::MutexLock lock(&pool_->mutex);
  pool_->chunks.push_back(std::move(chunk));
  return absl::OkStatus();
}

absl::Status DmaMemory::settle() {
  if (context_.device_count() == 0) return absl::OkStatus();
  return context_.run_until_memory_settled(options_.settle_timeout);
}

void DmaMemory::for_each_in_use(
    absl::FunctionRef<void(uint64_t gpa, uint64_t size)> visit) const {
  std::vector<DmaSpan> spans;
  {
    absl::MutexLock lock(&pool_->mutex);
    for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
      uint64_t at = 0;
      for (const auto& [start, length] : chunk.free) {
        if (start != at) spans.push_back({nullptr, chunk.gpa + at, start - at});
        at = start + length;
      }
      const uint64_t size = chunk.region->size();
      if (at != size) spans.push_back({nullptr, chunk.gpa + at, size - at});
    }
  }
  for (const DmaSpan& span : spans) visit(span.gpa, span.size);
}

absl::Status DmaMemory::retire(uint64_t gpa, uint64_t size) {
  absl::MutexLock lock(&pool_->mutex);
  for (DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
    const uint64_t offset = gpa - chunk.gpa;
    if (gpa < chunk.gpa || offset >= chunk.region->size()) continue;
    if (size > chunk.region->size() - offset || offset % kGrain != 0 ||
        size % kGrain != 0) {
      break;
    }
    chunk.retire(offset, offset + size);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("dma memory: retire ", size,
                                                 " bytes at ", absl::Hex(gpa),
                                                 ": not in one region"));
}

std::vector<DmaMemory::Region> DmaMemory::regions() const {
  absl::MutexLock lock(&pool_->mutex);
  std::vector<Region> out;
  for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
    out.push_back({chunk.region->name(), chunk.gpa, chunk.region->size(),
                   chunk.region->host()});
  }
  return out;
}

void DmaMemory::for_each_written(
    absl::FunctionRef<void(uint64_t gpa, uint64_t size)> visit) const {
  std::vector<DmaSpan> spans;
  {
    absl::MutexLock lock(&pool_->mutex);
    for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
      if (chunk.written == 0) continue;
      spans.push_back({chunk.region->host(), chunk.gpa, chunk.written});
    }
  }
  for (const DmaSpan& span : spans) visit(span.gpa, span.size);
}

absl::Status DmaMemory::trim() {
  settle().IgnoreError();
  absl::Status first;
  {
    absl::MutexLock lock(&pool_->mutex);
    std::erase_if(pool_->chunks, [&](const DmaBuffer::Pool::Chunk& chunk) {
      if (chunk.used != 0) return false;
      first.Update(memory_.remove(chunk.gpa));
      return true;
    });
  }
  first.Update(settle());
  return annotate(first, "dma memory: trim");
}

std::optional<uint64_t> DmaMemory::to_gpa(const std::byte* data,
                                          uint64_t size) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  absl::MutexLock lock(&pool_->mutex);
  for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) {
    const auto host = reinterpret_cast<uintptr_t>(chunk.region->host());
    if (address < host || address - host >= chunk.region->size()) continue;
    if (chunk.region->size() - (address - host) < size) return std::nullopt;
    return chunk.gpa + (address - host);
  }
  return std::nullopt;
}

uint64_t DmaMemory::bytes_in_use() const {
  absl::MutexLock lock(&pool_->mutex);
  uint64_t bytes = 0;
  for (const DmaBuffer::Pool::Chunk& chunk : pool_->chunks) bytes += chunk.used;
  return bytes;
}

size_t DmaMemory::region_count() const {
  absl::MutexLock lock(&pool_->mutex);
  return pool_->chunks.size();
}

}  // namespace vhost
