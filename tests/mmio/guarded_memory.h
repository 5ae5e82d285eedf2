// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MMIO_GUARDED_MEMORY_H_
#define TESTS_MMIO_GUARDED_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "vhostdev/memory.h"

namespace vhost {

// Guest memory at 0 that shows who leaves it: pages without access lie before
// and behind it in this process, and in its file, which back-ends map, pages of
// a known pattern.
class GuardedMemory {
 public:
  GuardedMemory(AddressSpace& space, uint64_t size);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  std::span<std::byte> bytes() { return {host_, size_}; }
  bool canaries_live() const;

 private:
  uint64_t size_;
  UniqueFd fd_;
  std::byte* map_ = nullptr;   // With its guards.
  std::byte* host_ = nullptr;  // Behind the first of them.
  std::byte* file_ = nullptr;  // All of the file.
};

}  // namespace vhost

#endif  // TESTS_MMIO_GUARDED_MEMORY_H_
