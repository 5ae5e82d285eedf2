// SPDX-License-Identifier: Apache-2.0
#include <atomic>

#include "vhostdev/inflight.h"

namespace vhost {

template <typename T>
void InflightMemory::store(size_t offset, T value) {
  if (observer_ != nullptr && !observer_->may_store()) return;
  auto* at = reinterpret_cast<T*>(region_.data() + offset);
  // ORDER: see the class.
  std::atomic_ref(*at).store(value, std::memory_order_release);
  if (observer_ != nullptr) observer_->stored();
}

void InflightMemory::store8(size_t offset, uint8_t value) {
  store(offset, value);
}
void InflightMemory::store16(size_t offset, uint16_t value) {
  store(offset, value);
}
void InflightMemory::store32(size_t offset, uint32_t value) {
  store(offset, value);
}
void InflightMemory::store64(size_t offset, uint64_t value) {
  store(offset, value);
}

}  // namespace vhost
