// SPDX-License-Identifier: Apache-2.0
//
// Payloads of the records about a device, and of the small ones about memory:
// format:u8 num:u16 queues:u8 payload.  What is read is written the same way.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>

#include "vhostdev/migration_records.h"

namespace vhost {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void run_core(std::span<const std::byte> payload,
              const DeviceManifest& manifest) {
  const auto core = decode_device_core(payload, manifest);
  if (!core.ok()) return;
  check(same(encode(*core), payload));
  check(check_device_core(*core, manifest).ok());
  const bool split = core->format == RingFormat::kSplit;
  for (const DeviceCore::Queue& queue : core->queues) {
    if (!queue.ready) continue;
    check(queue.num != 0 && queue.num <= kMaxQueueSize);
    check(!split || (queue.num & (queue.num - 1)) == 0);
    const auto left =
        static_cast<uint16_t>(to_int(queue.base) - queue.used_idx);
    check(!split || left <= queue.num);
    check(queue.desc + 16 * uint64_t{queue.num} >= queue.desc);
  }
}

void run_inflight(std::span<const std::byte> payload) {
  const auto piece = decode_inflight(payload);
  if (!piece.ok()) return;
  check(same(encode(*piece), payload));
  InflightAssembler area(piece->layout);
  check(area.add(payload).ok() == (piece->offset == 0));
  check(area.bytes().size() <= piece->layout.size);
}

void run_memory(std::span<const std::byte> payload) {
  constexpr uint64_t kPage = 4096;
  constexpr uint64_t kBlock = 16 * kPage;
  if (const auto pages = decode_ram_pages(payload, kPage, kBlock); pages.ok()) {
    check(pages->first_page * kPage + pages->bytes.size() <= kBlock);
  }
  if (const auto zero = decode_ram_zero_pages(payload, kPage, kBlock);
      zero.ok()) {
    check(zero->first_page + zero->count <= kBlock / kPage);
    check(same(encode(*zero), payload));
  }
  if (const auto round = decode_round_end(payload); round.ok()) {
    check(same(encode(*round), payload));
  }
  if (const auto hash = decode_ram_hash(payload); hash.ok()) {
    check(same(encode(*hash), payload));
  }
  const absl::Status why = decode_abort(payload);
  check(!why.ok() && decode_abort(encode_abort(why)) == why);
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vhost;  // NOLINT: an entry point.
  if (size < 4) return 0;
  DeviceManifest manifest;
  manifest.offered = FeatureSet::from_words(~uint64_t{0}, ~uint64_t{0});
  manifest.format = RingFormat{static_cast<uint8_t>(data[0] & 1)};
  uint16_t num = 0;
  std::memcpy(&num, data + 1, sizeof(num));
  manifest.queue_sizes.assign(data[3], num % (kMaxQueueSize + 1));
  const auto payload = std::as_bytes(std::span(data, size)).subspan(4);
  run_core(payload, manifest);
  run_inflight(payload);
  run_memory(payload);
  return 0;
}
