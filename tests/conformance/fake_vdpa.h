// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_FAKE_VDPA_H_
#define TESTS_CONFORMANCE_FAKE_VDPA_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/vdpa/vdpa_file.h"
#include "tests/conformance/fake_kernel.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A vhost-vdpa device: its requests behave as those of Linux 6.1's simulator
// were seen to, the wrong order and wrong values included.
class FakeVdpa {
 public:
  struct Mapping {
    uint64_t size = 0;
    uint64_t user = 0;
    uint8_t perm = 0;
  };
  struct Ring {
    uint32_t num = 0;
    uint32_t base = 0;
    uint64_t desc = 0;
    uint64_t used = 0;
    uint64_t avail = 0;
    UniqueFd kick;
    UniqueFd call;
    bool ready = false;
  };

  // What one address space holds.
  struct Space {
    std::map<uint64_t, Mapping> kernel;  // By IOVA.
    std::map<uint64_t, Mapping> device;  // Empty after a reset.
  };

  explicit FakeVdpa(uint32_t queues) : rings(queues), config(72) {}

  // What it is: vdpa_sim_blk's features, and the backend features
  // IOTLB_MSG_V2, IOTLB_BATCH, IOTLB_ASID and SUSPEND.
  uint64_t features = 0x308007646;
  uint64_t backend_features = 0x1e;
  uint64_t iova_first = 0;
  uint64_t iova_last = ~uint64_t{0};
  uint64_t memory_lock_limit = ~uint64_t{0};  // Bytes that may be pinned.
  bool pins = true;                           // VDUSE: false.
  uint32_t groups = 1;  // The last one has the last queue only.
  uint32_t address_spaces = 1;
  bool has_doorbells = false;
  bool features_ok_sticks = true;
  bool held = false;     // By somebody else too: closing its file does nothing.
  PlannedErrno planned;  // Of requests.
  PlannedErrno planned_writes;  // Of messages, by VHOST_IOTLB_*.

  // What was done to it.
  bool open = false;
  bool owned = false;
  uint8_t status = 0;
  bool suspended = false;
  uint64_t accepted = 0;
  uint64_t accepted_backend = 0;
  std::map<uint32_t, Space> spaces;  // Those that were ever used.
  std::map<uint32_t, uint32_t> group_space;
  std::vector<Ring> rings;
  std::vector<std::byte> config;
  UniqueFd config_call;
  uint32_t resets = 0;
  uint32_t batches = 0;              // Ended ones.
  std::optional<uint32_t> in_batch;  // Of this address space.
  uint64_t requests = 0;
  uint64_t messages = 0;

  const std::map<uint64_t, Mapping>& kernel_maps(uint32_t asid = 0) {
    return spaces[asid].kernel;
  }
  const std::map<uint64_t, Mapping>& device_maps(uint32_t asid = 0) {
    return spaces[asid].device;
  }
  uint32_t group_of(uint32_t queue) const {
    return groups > 1 && queue + 1 == rings.size() ? groups - 1 : 0;
  }

  // Opens this device; one at a time.
  VdpaFileOpener opener();

  // Whether the device would serve this ring.
  bool running(uint32_t queue) const;

 private:
  class File;
  int request(unsigned long request, void* arg);
  int fact_request(unsigned long request, void* arg, bool& known);
  int config_request(unsigned long request, void* arg);
  int vring_request(unsigned long request, void* arg);
  int group_request(unsigned long request, void* arg);
  int suspend(bool on);
  int set_status(uint8_t wanted);
  int set_features(uint64_t wanted);

  // The IOTLB: fake_vdpa_iotlb.cc.
  int write(std::span<const std::byte> message);
  int change(uint32_t asid, uint8_t type, uint64_t iova,
             const Mapping& mapping);
  int update(Space& space, uint64_t iova, const Mapping& mapping);
  void pass_on(Space& space);
  uint64_t pinned() const;
  bool mapped(uint32_t asid, uint64_t iova, uint64_t size) const;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_FAKE_VDPA_H_
