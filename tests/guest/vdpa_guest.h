// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_VDPA_GUEST_H_
#define TESTS_GUEST_VDPA_GUEST_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_vdpa.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {

// The simulators that this guest has.
inline constexpr char kVdpaBlk[] = "/dev/vhost-vdpa-0";
inline constexpr char kVdpaNet[] = "/dev/vhost-vdpa-1";

// Sets RLIMIT_MEMLOCK, in bytes, for as long as it lives.
class MemoryLockLimit {
 public:
  explicit MemoryLockLimit(uint64_t bytes);
  ~MemoryLockLimit();
  MemoryLockLimit(const MemoryLockLimit&) = delete;
  MemoryLockLimit& operator=(const MemoryLockLimit&) = delete;

 private:
  uint64_t before_;
};

// Open descriptors of this process.
size_t count_descriptors();
// Memory of this process that is pinned, in bytes.
uint64_t pinned_bytes();

// A VMM and its driver over a real vhost-vdpa device.
class VdpaGuest : public ::testing::Test {
 protected:
  VdpaGuest();

  VhostVdpaOptions vdpa(const char* path) const;
  std::unique_ptr<VirtioDriver> make_driver(VhostVdpaOptions vdpa,
                                            VirtioDriver::Options options);

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  VhostContext context_;
  DmaMemory dma_;
};

}  // namespace vhost::testing

#endif  // TESTS_GUEST_VDPA_GUEST_H_
