// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/bare_blk.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "backends/user/wire.h"
#include "vhostdev/features.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;
using user::Request;

constexpr uint64_t kGpa = 1 << 20;
constexpr uint64_t kSectorsPerRead = BareBlk::kDataSize / 512;
constexpr uint64_t kSectors = 1 << 20;
constexpr uint32_t kDescPerRequest = 3;

// What is behind the ring, for each request: header, status, data.
constexpr uint64_t kHeaderSize = 16;
constexpr uint64_t kHeaderPitch = 128;

struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

std::atomic_ref<uint16_t> word(std::byte* base, size_t offset) {
  return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(base + offset));
}

}  // namespace

BareBlk::BareBlk(const std::string& path, uint32_t num, Publish publish)
    : num_(num),
      publish_(publish),
      layout_(split_ring_layout(num)),
      size_((layout_.total + num * (kHeaderPitch + kDataSize) + 4095) &
            ~size_t{4095}),
      kick_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      connection_(path, make_memory(size_)) {
  const auto user = reinterpret_cast<uint64_t>(map_);
  const FeatureSet features = {kFeatureVersion1, kFeatureProtocolFeatures};
  const wire::SingleMemoryRegion memory = {0, {kGpa, size_, user, 0}};
  const wire::VringAddr addresses = {0,
                                     0,
                                     user,
                                     user + layout_.used_offset,
                                     user + layout_.avail_offset,
                                     kGpa + layout_.used_offset};
  const uint64_t accepted = features.low();
  const uint64_t no_fd = wire::kNoFdFlag;
  const wire::VringState ring_size = {0, num};
  const wire::VringState base = {0, 0};
  const wire::VringState on = {0, 1};
  const std::vector<TracedMessage> messages = {
      make_message(Request::kSetFeatures, wire::bytes_of(accepted)),
      make_message(Request::kAddMemReg, wire::bytes_of(memory), 1),
      make_message(Request::kSetVringNum, wire::bytes_of(ring_size)),
      make_message(Request::kSetVringBase, wire::bytes_of(base)),
      make_message(Request::kSetVringAddr, wire::bytes_of(addresses)),
      make_message(Request::kSetVringCall, wire::bytes_of(no_fd)),
      make_message(Request::kSetVringKick, wire::bytes_of(no_fd)),
      make_message(Request::kSetVringEnable, wire::bytes_of(on)),
  };
  word(map_, layout_.avail_offset).store(kVringAvailNoInterrupt);
  connection_.run(messages, {});
}

BareBlk::~BareBlk() { ::munmap(map_, size_); }

UniqueFd BareBlk::make_memory(size_t size) {
  UniqueFd file(::memfd_create("bare", MFD_CLOEXEC));
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) std::abort();
  void* map =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (map == MAP_FAILED) std::abort();
  map_ = static_cast<std::byte*>(map);
  return file;
}

void BareBlk::put(uint32_t slot, uint64_t sector) {
  const uint64_t header_at = layout_.total + slot * kHeaderPitch;
  const uint64_t status_at = header_at + kHeaderSize;
  const uint64_t data_at =
      layout_.total + num_ * kHeaderPitch + uint64_t{slot} * kDataSize;
  *reinterpret_cast<Header*>(map_ + header_at) = {0, 0, sector};
  *reinterpret_cast<uint8_t*>(map_ + status_at) = 0xff;
  const auto head = static_cast<uint16_t>(kDescPerRequest * slot);
  auto* desc = reinterpret_cast<VringDesc*>(map_) + head;
  desc[0] = {kGpa + header_at, kHeaderSize, kVringDescNext,
             static_cast<uint16_t>(head + 1)};
  desc[1] = {kGpa + data_at, kDataSize, kVringDescNext | kVringDescWrite,
             static_cast<uint16_t>(head + 2)};
  desc[2] = {kGpa + status_at, 1, kVringDescWrite, 0};
  word(map_, layout_.avail_offset + 4 + size_t{2} * (avail_ & (num_ - 1)))
      .store(head, std::memory_order_relaxed);
  ++avail_;
  if (publish_ == Publish::kEach) show();
}

void BareBlk::show() {
  // ORDER: requests before the index.
  word(map_, layout_.avail_offset + 2).store(avail_, std::memory_order_release);
}

void BareBlk::kick() {
  if (publish_ == Publish::kBatch) show();
  // ORDER: the index before the look at the flags.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t flags =
      word(map_, layout_.used_offset).load(std::memory_order_relaxed);
  if ((flags & kVringUsedNoNotify) != 0) return;
  const uint64_t one = 1;
  if (::write(kick_.get(), &one, sizeof(one)) < 0) std::abort();
}

void BareBlk::read(uint64_t count, uint32_t depth) {
  uint64_t submitted = 0;
  uint64_t completed = 0;
  const auto next = [this] {
    sector_ = (sector_ + kSectorsPerRead) % kSectors;
    return sector_;
  };
  for (; submitted < depth && submitted < count; ++submitted) {
    put(static_cast<uint32_t>(submitted), next());
  }
  kick();
  while (completed < count) {
    const uint16_t now =
        word(map_, layout_.used_offset + 2).load(std::memory_order_acquire);
    if (now == used_) continue;
    const uint64_t before = submitted;
    for (; used_ != now; ++used_, ++completed) {
      const auto* entry = reinterpret_cast<const uint32_t*>(
          map_ + layout_.used_offset + 4 + size_t{8} * (used_ & (num_ - 1)));
      const uint32_t slot = entry[0] / kDescPerRequest;
      const std::byte status =
          map_[layout_.total + slot * kHeaderPitch + kHeaderSize];
      if (status != std::byte{0}) std::abort();
      if (submitted == count) continue;
      put(slot, next());
      ++submitted;
    }
    if (submitted != before) kick();
  }
}

}  // namespace vhost::bench
