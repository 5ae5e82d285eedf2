// SPDX-License-Identifier: Apache-2.0
//
// Payloads of a manifest, of an answer and of blocks of RAM: what is read of
// them is written and read again, and compared with itself.
#include <cstdlib>
#include <span>

#include "vhostdev/migration_manifest.h"
#include "vhostdev/migration_records.h"

namespace vhost {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

size_t blockers(const Manifest& manifest) {
  size_t out = 0;
  for (const DeviceManifest& device : manifest.devices) {
    out += device.blockers.size();
  }
  return out;
}

// What a device needs is more than what it offers, if the other side says so.
bool contradicts_itself(const Manifest& manifest) {
  const uint64_t known =
      manifest.required_features | manifest.optional_features;
  if ((manifest.required_features & ~known) != 0) return true;
  for (const DeviceManifest& device : manifest.devices) {
    FeatureSet used = device.acked;
    used.clear(kFeatureLogAll).clear(kFeatureProtocolFeatures);
    if (device.format == RingFormat::kPacked) used.set(kFeatureRingPacked);
    if (!device.offered.contains(used)) return true;
    if (manifest.blocks.size() > device.max_memory_slots) return true;
  }
  return false;
}

void run_manifest(std::span<const std::byte> payload) {
  const auto manifest = decode_manifest(payload);
  if (!manifest.ok()) return;
  const auto bytes = encode(*manifest);
  check(bytes.ok());
  const auto again = decode_manifest(*bytes);
  check(again.ok() && *again == *manifest);
  const std::vector<std::string> said = differences(*manifest, *manifest);
  if (!contradicts_itself(*manifest)) {
    check(said.size() == 2 * blockers(*manifest));
  }
  // With nothing to take it, a machine is refused unless it is empty.
  const std::vector<std::string> all = differences(*manifest, Manifest{});
  check(!all.empty() ||
        (manifest->blocks.empty() && manifest->devices.empty()));
  const ManifestAnswer answer{all};
  const auto told = decode_manifest_answer(encode(answer));
  check(told.ok() && told->reasons.empty() == all.empty());
}

void run_answer(std::span<const std::byte> payload) {
  const auto answer = decode_manifest_answer(payload);
  if (!answer.ok()) return;
  const auto again = decode_manifest_answer(encode(*answer));
  check(again.ok() && *again == *answer);
}

void run_blocks(std::span<const std::byte> payload) {
  const auto blocks = decode_ram_blocks(payload);
  if (!blocks.ok()) return;
  const auto bytes = encode(*blocks);
  check(bytes.ok() && bytes->size() == payload.size());
  check(*decode_ram_blocks(*bytes) == *blocks);
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto payload = std::as_bytes(std::span(data, size));
  vhost::run_manifest(payload);
  vhost::run_answer(payload);
  vhost::run_blocks(payload);
  return 0;
}
