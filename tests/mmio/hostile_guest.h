// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MMIO_HOSTILE_GUEST_H_
#define TESTS_MMIO_HOSTILE_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "tests/mmio/mmio_guest.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {

// A driver that does anything at all: stores of any size to any register,
// often of values that mean something there, anything in its rings, and now
// and then all that it takes to start, or its damage would be shallow.
class HostileGuest {
 public:
  HostileGuest(VirtioMmio& device, std::span<std::byte> memory, uint64_t seed)
      : random_(seed), device_(device), guest_(device), memory_(memory) {}

  void step();

  // Writes that are not over.
  size_t pending();
  // Whether one was over twice.
  bool over_twice() const { return over_twice_; }

  uint64_t below(uint64_t limit) { return random_() % limit; }

 private:
  void keep(Writes write);
  void store();
  void load();
  void scribble();
  void behave();
  uint32_t value_for(uint64_t offset);

  std::mt19937_64 random_;
  VirtioMmio& device_;
  MmioGuest guest_;
  std::span<std::byte> memory_;
  std::vector<Writes> writes_;
  bool over_twice_ = false;
};

}  // namespace vhost

#endif  // TESTS_MMIO_HOSTILE_GUEST_H_
