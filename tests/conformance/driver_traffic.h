// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_DRIVER_TRAFFIC_H_
#define TESTS_CONFORMANCE_DRIVER_TRAFFIC_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/features.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {

// No healthy back-end takes as long, also in a virtual machine without KVM.
inline constexpr Duration kDriverPatience = std::chrono::seconds(20);

// What a device is for, and so what shows that it works.
enum class DriverClass : uint8_t {
  kBlk,   // BlkClient: what was written is read back.
  kNet,   // NetClient: frames come back.
  kRing,  // A ring: serve() copies what is readable to what is writable.
};

// One back-end as a driver sees it.
class DriverBackend {
 public:
  virtual ~DriverBackend() = default;

  // New ops for the same device.  Those made before were destroyed.
  virtual std::unique_ptr<VhostOps> connect() = 0;

  virtual DriverClass device_class() const = 0;
  virtual uint32_t queues() const = 0;
  // Bytes; 0: there is no configuration space.
  virtual uint32_t config_size() const { return 0; }

  // Does, now, what the device's other side owes and does not do by itself:
  // sends frames back, completes requests.
  virtual void serve(const VirtioDriver& driver, AddressSpace& memory) {
    static_cast<void>(driver);
    static_cast<void>(memory);
  }
};

// How a driver learns that something completed.
enum class TrafficWait : uint8_t { kPoll, kInterrupt };

// What a running driver is used for.  It has all queues; stop the driver before
// it goes.
class DriverTraffic {
 public:
  virtual ~DriverTraffic() = default;

  // Queues that exchanges can be made on, or pairs of them.
  virtual uint32_t lanes() const = 0;
  // One exchange on a lane, with contents made of `number`, which come back
  // changed by nobody.
  // Errors: kDataLoss          other contents came back.
  //         kDeadlineExceeded  nothing did, or no interrupt said so.
  virtual absl::Status exchange(uint32_t lane, uint64_t number) = 0;

  // How often `counted_queue` of the first lane goes on with one exchange.
  virtual uint16_t requests_per_exchange() const = 0;
  virtual QueueIndex counted_queue() const { return QueueIndex{0}; }

  // What only a device of the class is asked: a disk's id.  Empty where there
  // is nothing to ask.
  virtual absl::StatusOr<std::string> identity() { return std::string(); }

  // Makes requests that nobody waits for; how many of them.
  virtual absl::StatusOr<uint32_t> leave_in_flight() = 0;
};

absl::StatusOr<std::unique_ptr<DriverTraffic>> make_traffic(
    VirtioDriver& driver, DriverBackend& backend, AddressSpace& memory,
    TrafficWait wait);

// What the traffic of a class can make use of, and how its driver stops: a
// network card never drains.
FeatureSet traffic_features(DriverClass device_class);
uint32_t traffic_device_id(DriverClass device_class);
VirtioDriver::StopMode traffic_stop(DriverClass device_class);

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_DRIVER_TRAFFIC_H_
