// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_CONFORMANCE_NET_ROOM_SUITE_H_
#define TESTS_CONFORMANCE_NET_ROOM_SUITE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tests/conformance/conformance_suite.h"
#include "vhostdev/net_device.h"

namespace vhost::testing {

// A network device of four pairs and a control queue over any back-end: what
// hw/net must do alike, whoever serves the pairs.  Factories are those of
// Conformance; their back-ends have kPairs pairs and offer MQ and CTRL_VQ.
class NetRoom : public ::testing::TestWithParam<ConformanceFactory> {
 protected:
  static constexpr uint32_t kPairs = 4;
  static constexpr FeatureSet kMultiqueue = {kNetFeatureMq, kNetFeatureCtrlVq,
                                             kFeatureVersion1};

  NetRoom();
  ~NetRoom() override;

  // init, and what a driver that accepts `features` leaves of the queues.
  void make_ready(FeatureSet features = kMultiqueue);
  absl::Status init(FeatureSet features = kMultiqueue);
  absl::Status start();
  absl::Status stop();
  absl::Status set_pairs(uint16_t pairs);
  // Whether exactly the first `pairs` pairs are served.
  ::testing::AssertionResult serves_just(uint32_t pairs);

  std::unique_ptr<ConformanceBackend> backend_;
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  FakeVirtioDevice device_;
  FakeNotifierBinding notifiers_;
  RecordingBackendEvents events_;
  const NetQueues queues_{kPairs, true};
  std::unique_ptr<VhostContext> context_;
  std::unique_ptr<VhostDev> dev_;
  std::unique_ptr<NetDevice> net_;
};

}  // namespace vhost::testing

#endif  // TESTS_CONFORMANCE_NET_ROOM_SUITE_H_
