// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_TEST_DISK_H_
#define TESTS_PEERS_TEST_DISK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {

// What a VMM has besides devices.
struct TestVm {
  explicit TestVm(EventLoop& event_loop)
      : loop(event_loop), context(loop, memory), dma(context, memory) {}

  EventLoop& loop;
  AddressSpace memory;
  VhostContext context;
  DmaMemory dma;
};

// Timeouts that a healthy peer never reaches and a dead one does within a
// test.
inline constexpr Duration kPatience = std::chrono::seconds(20);

// A driver for the disk behind `socket`; nothing is connected yet.  `own_loop`
// and `stop_timeout` as in VirtioDriver::Options.
std::unique_ptr<VirtioDriver> make_driver(TestVm& vm, const std::string& socket,
                                          uint32_t queues,
                                          EpollEventLoop* own_loop,
                                          Duration stop_timeout = kPatience);

inline constexpr uint32_t kTestDepth = 16;

// What the driver of a disk is started with.
VirtioDriver::StartOptions start_options(uint32_t queues);
BlkClient::Options client_options();

// A disk in a VM of its own, started and ready, driven by blocking calls.
class TestDisk {
 public:
  static absl::StatusOr<std::unique_ptr<TestDisk>> open(
      const std::string& socket, uint32_t queues,
      Duration stop_timeout = kPatience);

  TestVm& vm() { return vm_; }
  BlkClient& client() { return *client_; }
  VirtioDriver& driver() { return *driver_; }
  EpollEventLoop& loop() { return *loop_; }

  // Connects, starts and makes a client, after disconnect().
  absl::Status connect(const std::string& socket, uint32_t queues);
  void disconnect();

  // Without a new connection.
  absl::Status stop();
  absl::Status start(uint32_t queues);

  // Makes the client believe in another configuration than the device has.
  absl::Status pretend(const BlkConfig& config);

  // One request, from its submission to its end.
  absl::Status transfer(BlkOp op, uint64_t offset, const DmaSpan& data);
  absl::Status run(BlkOp op, uint64_t offset, uint64_t length);

 private:
  TestDisk(std::unique_ptr<EpollEventLoop> loop, Duration stop_timeout)
      : loop_(std::move(loop)), vm_(*loop_), stop_timeout_(stop_timeout) {}

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop_;
  TestVm vm_;
  const Duration stop_timeout_;
  std::unique_ptr<VirtioDriver> driver_;
  std::unique_ptr<BlkClient> client_;
};

// Fills `out` with something that depends on every byte of `number`.
void fill(const DmaSpan& out, uint64_t number);
// Whether `got` is what fill() makes of `number`.
bool is_filled(const DmaSpan& got, uint64_t number);
bool is_zero(const DmaSpan& got);

}  // namespace vhost::testing

#endif  // TESTS_PEERS_TEST_DISK_H_
