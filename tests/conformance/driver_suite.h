// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_DRIVER_SUITE_H_
#define TESTS_CONFORMANCE_DRIVER_SUITE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "tests/conformance/driver_traffic.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {

struct DriverFactory {
  std::string name;
  std::function<std::unique_ptr<DriverBackend>()> make;
  // Whether it can be made at all: a test that cannot run says why.
  std::function<absl::Status()> check = nullptr;
};

inline std::ostream& operator<<(std::ostream& out,
                                const DriverFactory& factory) {
  return out << factory.name;
}

// VirtioDriver, the same over every back-end there is.  Another file, also in
// another binary that has driver_suite.cc and driver_traffic.cc among its
// sources, gives it more of them:
//
//   INSTANTIATE_TEST_SUITE_P(Model, DriverConformance,
//                            ::testing::Values(factory), driver_name);
class DriverConformance : public ::testing::TestWithParam<DriverFactory> {
 protected:
  using StopMode = VirtioDriver::StopMode;

  void SetUp() override;
  void TearDown() override;

  // A driver over new ops; nothing is connected yet.
  void make_driver();
  // Resets, with all features that the class can use but `without`, and starts
  // every queue.
  absl::Status start(FeatureSet without = {});
  // make_driver() and start(), and traffic that waits in that mode.
  void run_device(TrafficWait wait = TrafficWait::kPoll);
  void make_traffic(TrafficWait wait = TrafficWait::kPoll);
  // Stops in the way of the class, which is to succeed.
  void stop();
  // `count` exchanges on each queue or pair.
  absl::Status exchange(uint32_t count);

  // As a VMM does it for the VM: the driver does not notice.
  absl::Status pause();
  absl::Status resume();

  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  // ORDER: of destruction.
  std::unique_ptr<VhostContext> context_;
  std::unique_ptr<DmaMemory> dma_;
  std::unique_ptr<DriverBackend> backend_;
  std::unique_ptr<VirtioDriver> driver_;
  std::unique_ptr<DriverTraffic> traffic_;
  uint64_t next_ = 1;  // The number of the next exchange.
};

inline std::string driver_name(
    const ::testing::TestParamInfo<DriverFactory>& info) {
  return info.param.name;
}

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_DRIVER_SUITE_H_
