// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_ring.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

static_assert(std::endian::native == std::endian::little,
              "rings of VIRTIO 1.0 and later are little-endian");

constexpr uint32_t kMaxNum = 32768;
constexpr uint32_t kMaxIndirect = 1024;

constexpr uint16_t kDescNext = 1;
constexpr uint16_t kDescWrite = 2;
constexpr uint16_t kDescIndirect = 4;
constexpr uint16_t kAvailNoInterrupt = 1;
constexpr uint16_t kUsedNoNotify = 1;

constexpr uint64_t kDescSize = 16;
constexpr uint64_t kUsedElemSize = 8;
// Both rings: u16 flags, u16 idx, entries, u16 event.
constexpr uint64_t kFlags = 0;
constexpr uint64_t kIndex = 2;
constexpr uint64_t kEntries = 4;

constexpr uint64_t avail_size(uint64_t num) { return kEntries + 2 * num + 2; }
constexpr uint64_t used_size(uint64_t num) {
  return kEntries + kUsedElemSize * num + 2;
}

uint16_t load(const std::byte* at) {
  auto* value = reinterpret_cast<uint16_t*>(const_cast<std::byte*>(at));
  // ORDER: what the driver wrote before it moved an index is seen after it.
  return std::atomic_ref(*value).load(std::memory_order_acquire);
}

// Whether moving an index from `before` to `now` passed the one that the other
// side asked to be told of.
bool passed(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) <
         static_cast<uint16_t>(now - before);
}

}  // namespace

struct ModelRing::Desc {
  uint64_t addr;
  uint32_t len;
  uint16_t flags;
  uint16_t next;
};

struct ModelRing::UsedElem {
  uint32_t id;
  uint32_t len;
};

absl::Status ModelRing::set_num(uint32_t num) {
  if (num == 0 || num > kMaxNum || !std::has_single_bit(num)) {
    return absl::InvalidArgumentError(absl::StrCat(
        num, " descriptors: not a power of 2 of at most ", kMaxNum));
  }
  num_ = num;
  return absl::OkStatus();
}

absl::Status ModelRing::set_base(uint32_t base) {
  if (base > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("base ", base, " of a split ring has more than 16 bits"));
  }
  next_avail_ = static_cast<uint16_t>(base);
  return absl::OkStatus();
}

absl::Status ModelRing::set_addresses(const ModelRingAddresses& addresses) {
  const std::optional<ModelRingAddresses> before = addresses_;
  addresses_ = addresses;
  const absl::Status status = fits(context_->memory);
  if (!status.ok()) addresses_ = before;
  return status;
}

absl::Status ModelRing::fits(const ModelMemory& memory) const {
  if (!addresses_.has_value()) {
    return absl::FailedPreconditionError("the ring has no addresses");
  }
  struct Part {
    const char* name;
    uint64_t user;
    uint64_t size;
    uint64_t alignment;
  };
  // Before SET_VRING_NUM: at least its first byte.
  const Part parts[] = {
      {"descriptor table", addresses_->desc, kDescSize * num_, kDescSize},
      {"available ring", addresses_->avail, avail_size(num_), 2},
      {"used ring", addresses_->used, used_size(num_), 4},
  };
  for (const Part& part : parts) {
    const std::byte* host = memory.at_user(part.user, part.size);
    if (host == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s at 0x%x: %d bytes are not in guest memory",
                          part.name, part.user, part.size));
    }
    if (part.user % part.alignment != 0 ||
        reinterpret_cast<uintptr_t>(host) % part.alignment != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s at 0x%x: not aligned to %d bytes", part.name,
                          part.user, part.alignment));
    }
  }
  return absl::OkStatus();
}

absl::Status ModelRing::map() {
  if (num_ == 0) return absl::FailedPreconditionError("the ring has no size");
  VHOST_RETURN_IF_ERROR(fits(context_->memory));
  const ModelMemory& memory = context_->memory;
  desc_ = memory.at_user(addresses_->desc, kDescSize * num_);
  avail_ = memory.at_user(addresses_->avail, avail_size(num_));
  used_ = memory.at_user(addresses_->used, used_size(num_));
  return absl::OkStatus();
}

absl::Status ModelRing::begin() {
  VHOST_RETURN_IF_ERROR(map());
  next_used_ = load(used_ + kIndex);
  published_ = next_used_;
  taken_.assign(num_, false);
  return absl::OkStatus();
}

uint16_t ModelRing::load_avail(uint64_t index) const {
  return load(avail_ + kEntries + 2 * index);
}

absl::StatusOr<std::optional<ModelRing::Taken>> ModelRing::take() {
  const uint16_t avail = load(avail_ + kIndex);
  const auto waiting = static_cast<uint16_t>(avail - next_avail_);
  if (waiting == 0) return std::nullopt;
  if (waiting > num_) {
    return absl::InvalidArgumentError(
        absl::StrCat("available index ", avail, " is ", waiting, " ahead of ",
                     next_avail_, " in a ring of ", num_));
  }
  absl::StatusOr<Taken> taken = walk_from(load_avail(next_avail_ % num_));
  if (!taken.ok()) return taken.status();
  ++next_avail_;
  return *std::move(taken);
}

absl::StatusOr<ModelRing::Taken> ModelRing::walk_from(uint16_t head) {
  if (head >= num_) {
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", head, " is available in a ring of ", num_));
  }
  if (taken_[head]) {
    return absl::InvalidArgumentError(absl::StrCat(
        "descriptor ", head, " is available although it is in flight"));
  }
  Taken taken;
  taken.head = head;
  VHOST_RETURN_IF_ERROR(walk(head, taken.request));
  taken_[head] = true;
  return taken;
}

void ModelRing::go_on(size_t in_flight) {
  next_avail_ = static_cast<uint16_t>(next_used_ + in_flight);
}

absl::StatusOr<ModelRing::Taken> ModelRing::retake(uint16_t head) {
  absl::StatusOr<Taken> taken = walk_from(head);
  if (taken.ok()) taken->resubmitted = true;
  return taken;
}

absl::Status ModelRing::walk(uint16_t head, ModelRequest& request) const {
  uint16_t index = head;
  for (uint32_t seen = 0; seen < num_; ++seen) {
    Desc desc;
    std::memcpy(&desc, desc_ + kDescSize * index, sizeof(desc));
    if ((desc.flags & kDescIndirect) != 0) {
      if ((desc.flags & kDescNext) != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("descriptor ", index, " is INDIRECT and has NEXT"));
      }
      return annotate(walk_indirect(desc, request),
                      absl::StrCat("indirect descriptor ", index));
    }
    VHOST_RETURN_IF_ERROR(
        annotate(append(desc, request), absl::StrCat("descriptor ", index)));
    if ((desc.flags & kDescNext) == 0) return absl::OkStatus();
    if (desc.next >= num_) {
      return absl::InvalidArgumentError(
          absl::StrCat("descriptor ", index, " is followed by ", desc.next,
                       " in a table of ", num_));
    }
    index = desc.next;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the chain from descriptor ", head, " has more than ", num_));
}

absl::Status ModelRing::walk_indirect(const Desc& where,
                                      ModelRequest& request) const {
  if (!has(kFeatureIndirectDesc)) {
    return absl::InvalidArgumentError("INDIRECT_DESC was not negotiated");
  }
  const uint32_t count = where.len / static_cast<uint32_t>(kDescSize);
  if (count == 0 || where.len % kDescSize != 0 || count > kMaxIndirect) {
    return absl::InvalidArgumentError(
        absl::StrCat("a table of ", where.len, " bytes"));
  }
  std::vector<ModelSegment> pieces;
  if (!context_->memory.at_guest(where.addr, where.len, pieces)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the table at gpa 0x%x is not in guest memory", where.addr));
  }
  std::vector<Desc> table(count);
  copy_from(pieces, std::as_writable_bytes(std::span(table)));
  uint32_t index = 0;
  for (uint32_t seen = 0; seen < count; ++seen) {
    const Desc& desc = table[index];
    if ((desc.flags & kDescIndirect) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", index, " is INDIRECT itself"));
    }
    VHOST_RETURN_IF_ERROR(
        annotate(append(desc, request), absl::StrCat("entry ", index)));
    if ((desc.flags & kDescNext) == 0) return absl::OkStatus();
    if (desc.next >= count) {
      return absl::InvalidArgumentError(
          absl::StrCat("entry ", index, " is followed by ", desc.next,
                       " in a table of ", count));
    }
    index = desc.next;
  }
  return absl::InvalidArgumentError("the entries form a loop");
}

absl::Status ModelRing::append(const Desc& desc, ModelRequest& request) const {
  const bool writable = (desc.flags & kDescWrite) != 0;
  if (!writable && !request.writable.empty()) {
    return absl::InvalidArgumentError("readable behind a writable one");
  }
  std::vector<ModelSegment>& side =
      writable ? request.writable : request.readable;
  if (!context_->memory.at_guest(desc.addr, desc.len, side)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d bytes at gpa 0x%x are not in guest memory", desc.len, desc.addr));
  }
  if (total_size(side) > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError("more than 4 GiB in one chain");
  }
  if (writable && has(kFeatureLogAll)) {
    return context_->log.check(desc.addr, desc.len);
  }
  return absl::OkStatus();
}

void ModelRing::put_back(const Taken& taken) {
  taken_[taken.head] = false;
  --next_avail_;
}

// What the used ring says of a request.
ModelRing::UsedElem ModelRing::told(const Taken& taken, uint32_t written,
                                    ModelFault fault) const {
  UsedElem elem = {taken.head, written};
  switch (fault) {
    case ModelFault::kUsedId:
      elem.id = num_;
      break;
    case ModelFault::kUsedTwice:
      // One that is in nobody's hands; there is none if all are.
      for (elem.id = 0; elem.id + 1 < num_ && taken_[elem.id]; ++elem.id) {
      }
      break;
    case ModelFault::kLength:
      elem.len = static_cast<uint32_t>(total_size(taken.request.writable)) + 1;
      break;
    case ModelFault::kNone:
    case ModelFault::kUsedIndex:
      break;
  }
  return elem;
}

absl::Status ModelRing::give_back(const Taken& taken, uint32_t written,
                                  ModelFault fault) {
  if (has(kFeatureLogAll)) {
    for (const ModelSegment& piece :
         slice(taken.request.writable, 0, written)) {
      VHOST_RETURN_IF_ERROR(context_->log.mark(piece.gpa, piece.size));
    }
  }
  const UsedElem elem = told(taken, written, fault);
  const uint64_t offset = kEntries + kUsedElemSize * (next_used_ % num_);
  if (addresses_->log_used) {
    VHOST_RETURN_IF_ERROR(
        context_->log.check(addresses_->log, used_size(num_)));
  }
  if (context_->stores != nullptr && !context_->stores->may_store()) {
    return absl::CancelledError("killed");
  }
  std::memcpy(used_ + offset, &elem, sizeof(elem));
  if (context_->stores != nullptr) context_->stores->stored();
  if (addresses_->log_used) {
    VHOST_RETURN_IF_ERROR(
        context_->log.mark(addresses_->log + offset, sizeof(elem)));
  }
  ++next_used_;
  if (fault == ModelFault::kUsedIndex) {
    next_used_ = static_cast<uint16_t>(next_used_ + num_);
  }
  taken_[taken.head] = false;
  return absl::OkStatus();
}

absl::StatusOr<bool> ModelRing::publish() {
  if (next_used_ == published_) return false;
  const uint16_t before = published_;
  VHOST_RETURN_IF_ERROR(store_used(kIndex, next_used_));
  published_ = next_used_;
  // ORDER: the index must be visible before we look whether the driver wants
  // to hear of it: it may have asked, and looked at the index, just now.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (has(kFeatureEventIdx)) {
    return passed(load_avail(num_), published_, before);
  }
  return (load(avail_ + kFlags) & kAvailNoInterrupt) == 0;
}

absl::Status ModelRing::store_used(uint64_t offset, uint16_t value) {
  if (addresses_->log_used) {
    VHOST_RETURN_IF_ERROR(
        context_->log.check(addresses_->log + offset, sizeof(value)));
  }
  if (context_->stores != nullptr && !context_->stores->may_store()) {
    return absl::CancelledError("killed");
  }
  // ORDER: the entries before the index that shows them.
  std::atomic_ref(*reinterpret_cast<uint16_t*>(used_ + offset))
      .store(value, std::memory_order_release);
  if (context_->stores != nullptr) context_->stores->stored();
  if (!addresses_->log_used) return absl::OkStatus();
  return context_->log.mark(addresses_->log + offset, sizeof(value));
}

absl::Status ModelRing::suppress_kicks() {
  // With EVENT_IDX an index that the driver will not pass soon does it.
  if (has(kFeatureEventIdx)) {
    return store_used(kEntries + kUsedElemSize * num_,
                      static_cast<uint16_t>(next_avail_ - 1));
  }
  if (load(used_ + kFlags) == kUsedNoNotify) return absl::OkStatus();
  return store_used(kFlags, kUsedNoNotify);
}

absl::StatusOr<bool> ModelRing::want_kicks() {
  if (has(kFeatureEventIdx)) {
    VHOST_RETURN_IF_ERROR(
        store_used(kEntries + kUsedElemSize * num_, next_avail_));
  } else if (load(used_ + kFlags) != 0) {
    VHOST_RETURN_IF_ERROR(store_used(kFlags, 0));
  }
  // ORDER: the driver must see the wish before we look for the last time, or
  // what it adds in between is announced by nobody.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return load(avail_ + kIndex) != next_avail_;
}

}  // namespace vhost::testing
