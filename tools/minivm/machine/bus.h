// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_BUS_H_
#define TOOLS_MINIVM_MACHINE_BUS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>

#include "absl/status/status.h"
#include "vhostdev/event_loop.h"

namespace vhost::minivm {

// What answers to a range of addresses or ports.  Called on vCPU threads.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  virtual void read(uint64_t offset, std::span<std::byte> out) = 0;
  // True: the vCPU waits until `done` runs, on the loop.  False: `done` is
  // destroyed uncalled.
  [[nodiscard]] virtual bool write(uint64_t offset,
                                   std::span<const std::byte> bytes,
                                   EventLoop::Callback done) = 0;
};

// Who answers where.  Filled before the vCPUs run, then read by all of them.
class Bus {
 public:
  struct Place {
    BusDevice* device = nullptr;  // Null: nobody.
    uint64_t offset = 0;
  };

  // `device` is borrowed.
  // Errors: kInvalidArgument  empty, wraps, or overlaps another.
  absl::Status add(uint64_t base, uint64_t size, BusDevice& device);

  // Who has all `size` bytes at `address`.
  Place find(uint64_t address, uint64_t size) const;

 private:
  struct Entry {
    uint64_t size = 0;
    BusDevice* device = nullptr;
  };
  std::map<uint64_t, Entry> entries_;  // By base.
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_BUS_H_
