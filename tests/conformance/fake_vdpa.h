// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_FAKE_VDPA_H_
#define TESTS_CONFORMANCE_FAKE_VDPA_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
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

  explicit FakeVdpa(uint32_t queues) : rings(queues), config(72) {}

  // What it is: vdpa_sim_blk's features, and the backend features
  // IOTLB_MSG_V2, IOTLB_BATCH, IOTLB_ASID and SUSPEND.
  uint64_t features = 0x308007646;
  uint64_t backend_features = 0x1e;
  uint64_t iova_first = 0;
  uint64_t iova_last = ~uint64_t{0};
  uint64_t memory_lock_limit = ~uint64_t{0};  // Bytes that may be pinned.
  bool features_ok_sticks = true;
  PlannedErrno planned;

  // What was done to it.
  bool open = false;
  bool owned = false;
  uint8_t status = 0;
  bool suspended = false;
  uint64_t accepted = 0;
  uint64_t accepted_backend = 0;
  std::map<uint64_t, Mapping> kernel_maps;  // By IOVA.
  std::map<uint64_t, Mapping> device_maps;  // A reset empties this one.
  std::vector<Ring> rings;
  std::vector<std::byte> config;
  UniqueFd config_call;
  uint32_t resets = 0;
  uint32_t open_batches = 0;

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
  int set_status(uint8_t wanted);
  int set_features(uint64_t wanted);
  int write(std::span<const std::byte> message);
  int update(uint64_t iova, const Mapping& mapping);
  void invalidate(uint64_t iova, uint64_t size);
  bool mapped(uint64_t iova, uint64_t size) const;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_FAKE_VDPA_H_
