// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_FAKE_KERNEL_H_
#define TESTS_CONFORMANCE_FAKE_KERNEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "backends/kernel/ioctl_seam.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// Makes the n-th request of a kind fail.
class PlannedErrno {
 public:
  // Request number `nth` (from 0) of this kind, and the `times` - 1 behind it,
  // fail with `error`.
  void fail(unsigned long request, int error, uint32_t nth = 0,
            uint32_t times = 1) {
    plans_[request] = {error, nth, times};
  }
  // The errno for this request, or 0.
  int take(unsigned long request);

 private:
  struct Plan {
    int error = 0;
    uint32_t before = 0;  // Requests that succeed first.
    uint32_t times = 0;
  };
  std::map<unsigned long, Plan> plans_;
};

// Whether `fd` is open and an eventfd: the only notifier a kernel takes.
bool is_eventfd(int fd);

// The vhost-net half of a kernel: its requests behave as those of Linux 6.1
// were seen to, the wrong order and wrong values included.
class FakeVhostNet {
 public:
  struct Region {
    uint64_t gpa = 0;
    uint64_t size = 0;
    uint64_t user = 0;
  };
  struct Ring {
    uint32_t num = 0;
    uint32_t base = 0;
    uint64_t desc = 0;
    uint64_t used = 0;
    uint64_t avail = 0;
    bool logs = false;
    UniqueFd kick;
    UniqueFd call;
    UniqueFd err;
    int tap = -1;  // Attached.
  };
  // One open /dev/vhost-net.
  struct Device {
    bool owned = false;
    uint64_t features = 0;
    uint64_t log_base = 0;
    std::vector<Region> table;
    Ring rings[2];
  };

  // The offer of Linux 6.1: MRG_RXBUF, NOTIFY_ON_EMPTY, LOG_ALL, bit 27,
  // INDIRECT_DESC, EVENT_IDX, VERSION_1 and ACCESS_PLATFORM.
  uint64_t features = 0x33d008000;
  size_t max_regions = 64;
  PlannedErrno planned;

  // Opens devices of this kernel, which must outlive them.
  VhostFileOpener opener();
  UniqueFd make_tap();

  // Devices that are open, in the order they were opened.
  std::vector<Device*> open_devices() const { return devices_; }
  Ring* ring(uint32_t queue);
  bool running(uint32_t queue) {
    return ring(queue) != nullptr && ring(queue)->tap >= 0;
  }

 private:
  class File;
  int request(Device& device, unsigned long request, void* arg);
  int vring_request(Device& device, unsigned long request, void* arg);
  int set_table(Device& device, const void* arg);
  int set_notifier(UniqueFd& notifier, int fd);
  int set_backend(Device& device, Ring& ring, int fd);

  std::set<int> taps_;
  std::vector<Device*> devices_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_FAKE_KERNEL_H_
