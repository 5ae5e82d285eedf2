// SPDX-License-Identifier: Apache-2.0
#include "tests/driver/ring_device.h"

#include <atomic>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

std::byte* align(std::vector<std::byte>& storage, size_t size) {
  storage.resize(size + 128);
  const auto address = reinterpret_cast<uintptr_t>(storage.data());
  return storage.data() + ((address + 127) / 128 * 128 - address);
}

std::atomic_ref<uint16_t> word(std::byte* at) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(at));
}

}  // namespace

RingMemory::RingMemory(uint32_t num, uint32_t indirect_entries)
    : num_(num),
      indirect_entries_(indirect_entries),
      layout_(split_ring_layout(num)),
      base_(align(storage_, layout_.total)) {
  if (indirect_entries != 0) {
    indirect_ = align(indirect_storage_, size_t{16} * indirect_entries * num);
  }
}

SplitVirtqueue::Options RingMemory::options() const {
  SplitVirtqueue::Options out;
  out.num = num_;
  out.desc = desc();
  out.avail = avail();
  out.used = used();
  out.indirect = indirect_;
  out.indirect_gpa = reinterpret_cast<uintptr_t>(indirect_);
  out.indirect_entries = indirect_entries_;
  return out;
}

RingDevice::RingDevice(const RingParts& parts, bool event_index,
                       uint16_t first_index)
    : parts_(parts),
      num_(parts.num),
      event_index_(event_index),
      next_avail_(first_index),
      used_index_(first_index),
      signalled_(first_index) {}

uint16_t RingDevice::avail_index() const {
  return word(parts_.avail + 2).load(std::memory_order_acquire);
}

bool RingDevice::has_available() const { return avail_index() != next_avail_; }

std::optional<RingDevice::Chain> RingDevice::pop() {
  const auto fresh = static_cast<uint16_t>(avail_index() - next_avail_);
  if (fresh == 0) return std::nullopt;
  if (fresh > num_) complaints.push_back(absl::StrCat(fresh, " available"));
  Chain chain;
  chain.head = word(parts_.avail + 4 + size_t{2} * (next_avail_ % num_))
                   .load(std::memory_order_relaxed);
  ++next_avail_;
  if (chain.head >= num_) {
    complaints.push_back(absl::StrCat("head ", chain.head));
    return std::nullopt;
  }
  walk(parts_.desc, num_, chain.head, false, chain);
  return chain;
}

void RingDevice::walk(const std::byte* table, uint32_t entries, uint32_t index,
                      bool nested, Chain& out) {
  uint64_t total = 0;
  for (uint32_t count = 0; count <= entries; ++count) {
    VringDesc desc;
    if (index >= entries) break;
    std::memcpy(&desc, table + size_t{16} * index, sizeof(desc));
    const bool next = (desc.flags & kVringDescNext) != 0;
    if ((desc.flags & kVringDescIndirect) != 0) {
      if (nested || next || desc.len % 16 != 0 || desc.len == 0 ||
          desc.len / 16 > num_) {
        break;
      }
      out.indirect = true;
      return walk(reinterpret_cast<const std::byte*>(desc.addr), desc.len / 16,
                  0, true, out);
    }
    const bool write = (desc.flags & kVringDescWrite) != 0;
    if (desc.len == 0) complaints.push_back("empty buffer");
    if (!write && !out.writable.empty()) complaints.push_back("order");
    (write ? out.writable : out.readable).push_back({desc.addr, desc.len});
    if (write) out.writable_bytes += desc.len;
    total += desc.len;
    if (total > UINT32_MAX) complaints.push_back("2^32 bytes");
    if (!next) {
      // All of an indirect table belongs to its chain.
      if (nested && count + 1 != entries) complaints.push_back("table size");
      return;
    }
    index = desc.next;
  }
  complaints.push_back(absl::StrCat("chain from ", out.head));
}

void RingDevice::complete(uint16_t head, uint32_t written) {
  write_used_entry(used_index_, head, written);
  ++used_index_;
  word(parts_.used + 2).store(used_index_, std::memory_order_release);
}

bool RingDevice::signal_needed() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t before = signalled_;
  signalled_ = used_index_;
  if (before == used_index_) return false;
  if (!event_index_) return (avail_flags() & kVringAvailNoInterrupt) == 0;
  // Source: VIRTIO 1.3, "Used Buffer Notification Suppression".
  return static_cast<uint16_t>(used_index_ - used_event() - 1) <
         static_cast<uint16_t>(used_index_ - before);
}

void RingDevice::enable_notifications() {
  if (event_index_) {
    write_avail_event(next_avail_);
  } else {
    word(parts_.used).store(0, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void RingDevice::disable_notifications() {
  if (event_index_) {
    write_avail_event(static_cast<uint16_t>(next_avail_ - 1));
  } else {
    word(parts_.used).store(kVringUsedNoNotify, std::memory_order_relaxed);
  }
}

void RingDevice::write_used_entry(uint16_t at, uint32_t id, uint32_t written) {
  std::byte* const entry = parts_.used + 4 + size_t{8} * (at % num_);
  std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(entry))
      .store(id, std::memory_order_relaxed);
  std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(entry + 4))
      .store(written, std::memory_order_relaxed);
}

void RingDevice::write_used_index(uint16_t index) {
  used_index_ = index;
  word(parts_.used + 2).store(index, std::memory_order_release);
}

void RingDevice::write_avail_event(uint16_t value) {
  word(parts_.used + 4 + size_t{8} * num_)
      .store(value, std::memory_order_relaxed);
}

uint16_t RingDevice::used_event() const {
  return word(parts_.avail + 4 + size_t{2} * num_)
      .load(std::memory_order_relaxed);
}

uint16_t RingDevice::avail_flags() const {
  return word(parts_.avail).load(std::memory_order_relaxed);
}

VringDesc RingDevice::descriptor(uint16_t index) const {
  VringDesc desc;
  std::memcpy(&desc, parts_.desc + size_t{16} * index, sizeof(desc));
  return desc;
}

}  // namespace vhost
