// SPDX-License-Identifier: Apache-2.0
#include <atomic>

#include "vhostdev/inflight.h"

namespace vhost {
namespace {

template <typename T>
void store(const StoreGate& gate, std::byte* at, T value) {
  if (gate && !gate()) return;
  // ORDER: see InflightMemory.
  std::atomic_ref(*reinterpret_cast<T*>(at))
      .store(value, std::memory_order_release);
}

}  // namespace

void InflightMemory::store8(size_t offset, uint8_t value) {
  store(gate_, region_.data() + offset, value);
}
void InflightMemory::store16(size_t offset, uint16_t value) {
  store(gate_, region_.data() + offset, value);
}
void InflightMemory::store32(size_t offset, uint32_t value) {
  store(gate_, region_.data() + offset, value);
}
void InflightMemory::store64(size_t offset, uint64_t value) {
  store(gate_, region_.data() + offset, value);
}

}  // namespace vhost
