// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/instant_rings.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "vhostdev/split_virtqueue.h"

namespace vhost::bench {
namespace {

std::atomic_ref<uint16_t> word(std::byte* base, size_t offset) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base + offset));
}

}  // namespace

void InstantRings::reset(uint32_t rings) {
  enabled_.clear();
  rings_.clear();
  rings_.resize(rings);
  for (const Region& region : regions_) {
    ::munmap(region.map, region.wire.size);
  }
  regions_.clear();
  last_region_ = 0;
}

void InstantRings::set_addresses(const user::wire::VringAddr& addresses) {
  at(addresses.index).addresses = addresses;
}

void InstantRings::add_memory(const user::wire::MemoryRegion& region,
                              UniqueFd file) {
  void* map = ::mmap(nullptr, region.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                     file.get(), static_cast<off_t>(region.mmap_offset));
  if (map == MAP_FAILED) return;
  regions_.push_back({region, static_cast<std::byte*>(map)});
}

void InstantRings::enable(uint32_t index, bool enabled) {
  const auto found = std::find(enabled_.begin(), enabled_.end(), index);
  if (found != enabled_.end()) enabled_.erase(found);
  if (!enabled) return;
  Ring& ring = at(index);
  ring.desc = at_user(ring.addresses.descriptor);
  ring.avail = at_user(ring.addresses.available);
  ring.used = at_user(ring.addresses.used);
  if (ring.desc == nullptr || ring.avail == nullptr || ring.used == nullptr) {
    return;  // Memory is only looked at where rings are served.
  }
  ring.used_index = word(ring.used, 2).load(std::memory_order_acquire);
  word(ring.used, 0).store(kVringUsedNoNotify, std::memory_order_release);
  enabled_.push_back(index);
}

std::byte* InstantRings::at_gpa(uint64_t gpa) {
  if (last_region_ < regions_.size()) {
    const Region& last = regions_[last_region_];
    const uint64_t offset = gpa - last.wire.guest_address;
    if (offset < last.wire.size) return last.map + offset;
  }
  for (size_t i = 0; i < regions_.size(); ++i) {
    const uint64_t offset = gpa - regions_[i].wire.guest_address;
    if (offset >= regions_[i].wire.size) continue;
    last_region_ = i;
    return regions_[i].map + offset;
  }
  return nullptr;
}

std::byte* InstantRings::at_user(uint64_t user) {
  for (const Region& region : regions_) {
    const uint64_t offset = user - region.wire.user_address;
    if (offset < region.wire.size) return region.map + offset;
  }
  return nullptr;
}

void InstantRings::poll() {
  for (const uint32_t index : enabled_) serve(rings_[index]);
}

void InstantRings::serve(Ring& ring) {
  const uint16_t available =
      word(ring.avail, 2).load(std::memory_order_acquire);
  if (available == ring.next) return;
  const uint16_t mask = static_cast<uint16_t>(ring.num - 1);
  while (ring.next != available) {
    const uint16_t head = word(ring.avail, 4 + size_t{2} * (ring.next & mask))
                              .load(std::memory_order_relaxed);
    const uint32_t written = complete(ring, head);
    auto* entry = reinterpret_cast<uint32_t*>(
        ring.used + 4 + size_t{8} * (ring.used_index & mask));
    entry[0] = head;
    entry[1] = written;
    ++ring.next;
    ++ring.used_index;
  }
  // ORDER: entries before the index; the index before the look at the flags.
  word(ring.used, 2).store(ring.used_index, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t flags = word(ring.avail, 0).load(std::memory_order_relaxed);
  if ((flags & kVringAvailNoInterrupt) == 0 && ring.call.valid()) {
    const uint64_t one = 1;
    if (::write(ring.call.get(), &one, sizeof(one)) < 0) return;
  }
}

// Follows the chain to its status byte; the number of writable bytes.
uint32_t InstantRings::complete(Ring& ring, uint16_t head) {
  const auto* table = reinterpret_cast<const VringDesc*>(ring.desc);
  const VringDesc* desc = &table[head];
  if ((desc->flags & kVringDescIndirect) != 0) {
    table = reinterpret_cast<const VringDesc*>(at_gpa(desc->addr));
    if (table == nullptr) return 0;
    desc = table;
  }
  uint32_t written = 0;
  for (;;) {
    if ((desc->flags & kVringDescWrite) != 0) written += desc->len;
    if ((desc->flags & kVringDescNext) == 0) break;
    desc = &table[desc->next];
  }
  std::byte* status = at_gpa(desc->addr + desc->len - 1);
  if (status != nullptr) *status = std::byte{0};
  return written;
}

}  // namespace vhost::bench
