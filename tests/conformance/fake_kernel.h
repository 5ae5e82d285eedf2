// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_FAKE_KERNEL_H_
#define TESTS_CONFORMANCE_FAKE_KERNEL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backends/kernel/ioctl_seam.h"
#include "backends/kernel/iotlb_message.h"
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

// The vhost half of a kernel: its requests behave as those of Linux 6.1 were
// seen to, the wrong order and wrong values included, and where asked for as
// those of later kernels.
class FakeKernel {
 public:
  enum class Kind : uint8_t { kNet, kVsock, kScsi };

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
    bool big_endian = false;
    uint32_t busyloop = 0;
    uint32_t worker = 0;
    UniqueFd kick;
    UniqueFd call;
    UniqueFd err;
    int tap = -1;  // Attached (net).
  };
  // One open device.
  struct Device {
    bool owned = false;
    bool fork = true;
    uint64_t features = 0;
    uint64_t features_high = 0;
    uint64_t backend_features = 0;
    uint64_t log_base = 0;
    UniqueFd log_event;
    std::vector<Region> table;
    std::vector<Ring> rings;
    std::set<uint32_t> workers;
    bool iotlb = false;  // ACCESS_PLATFORM was set once.
    std::map<uint64_t, UpdateIotlb> translations;  // By iova.
    std::deque<IotlbMessage> outbox;               // For read().
    UniqueFd read_end;     // Readable while there is something in it.
    UniqueFd write_end;    // Closed: the device hangs up.
    uint64_t cid = 0;      // Vsock.
    bool running = false;  // Vsock.
    std::string endpoint;  // Scsi; empty: not set.
    bool events_missed = false;
  };

  explicit FakeKernel(Kind kind = Kind::kNet, uint32_t rings = 2)
      : kind_(kind), rings_(rings) {}

  // The offer of Linux 6.1: MRG_RXBUF, NOTIFY_ON_EMPTY, LOG_ALL, bit 27,
  // INDIRECT_DESC, EVENT_IDX, VERSION_1 and ACCESS_PLATFORM.
  uint64_t features = 0x33d008000;
  // Bits from 64 on; not 0: the requests of Linux 6.17 exist.
  uint64_t features_high = 0;
  uint64_t backend_features = 2;  // IOTLB_MSG_V2.
  size_t max_regions = 64;
  bool has_workers = false;       // Linux 6.5.
  bool has_fork_choice = false;   // Linux 6.17.
  bool has_cross_endian = false;  // CONFIG_VHOST_CROSS_ENDIAN_LEGACY.
  int scsi_abi = 1;
  std::set<uint64_t> cids_in_use;
  std::set<std::string> targets;
  PlannedErrno planned;
  int fail_writes = 0;  // The errno of the next write of an IOTLB message.

  // What was asked: requests, and 0 for each message written.
  std::vector<unsigned long> journal;
  size_t count(unsigned long request) const;

  // Opens devices of this kernel, which must outlive them.
  VhostFileOpener opener();
  // The whole system as the ops see it.
  KernelSystem system();
  UniqueFd make_tap();

  // Devices that are open, in the order they were opened.
  std::vector<Device*> open_devices() const { return devices_; }
  Ring* ring(uint32_t queue);
  bool running(uint32_t queue);

  // The `device`th asks for a translation, or sends any bytes.
  void ask(size_t device, uint64_t iova, IotlbAccess access);
  void send(size_t device, const IotlbMessage& message);
  void hang_up(size_t device) { devices_[device]->write_end.reset(); }

 private:
  class File;
  int request(Device& device, unsigned long request, void* arg);
  int feature_request(Device& device, unsigned long request, void* arg);
  int owned_request(Device& device, unsigned long request, void* arg);
  int worker_request(Device& device, unsigned long request, void* arg);
  int vring_request(Device& device, unsigned long request, void* arg);
  int vsock_request(Device& device, unsigned long request, void* arg);
  int scsi_request(Device& device, unsigned long request, void* arg);
  int set_features(Device& device, uint64_t low, uint64_t high);
  int set_table(Device& device, const void* arg);
  int set_notifier(UniqueFd& notifier, int fd);
  int set_backend(Device& device, Ring& ring, int fd);
  int take_iotlb(Device& device, std::span<const std::byte> message);
  bool reachable(Device& device, const Ring& ring);
  bool translated(Device& device, uint64_t iova, uint64_t size);
  void put(Device& device, const IotlbMessage& message);
  void put_miss(Device& device, uint64_t iova, IotlbAccess access);

  const Kind kind_;
  const uint32_t rings_;
  uint32_t next_worker_ = 1;
  std::set<int> taps_;
  std::vector<Device*> devices_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_FAKE_KERNEL_H_
