// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_DRIVER_BLK_FIXTURE_H_
#define TESTS_DRIVER_BLK_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// A block client over a socket and a model back-end of 1 MiB that runs on a
// thread of its own.
class BlkTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kDiskSize = 1 << 20;

  BlkTest() : loop(EpollEventLoop::create().value()) {
    driver_options.name = "disk";
    driver_options.device_id = kDeviceIdBlock;
    driver_options.max_queues = 4;
    driver_options.config_size = kBlkConfigSize;
    driver_options.own_loop = loop.get();
  }

  // The back-end's process, so to speak; its disk outlives it.
  void start_backend();
  // Connects, starts `queues` queues and makes the client.
  absl::Status connect(uint32_t queues);
  // All of it.
  void make(uint32_t queues = 1) {
    start_backend();
    const absl::Status status = connect(queues);
    ASSERT_TRUE(status.ok()) << status;
  }

  absl::Status run(BlkOp op, uint64_t offset, const DmaSpan& data) {
    BlkRequest request;
    request.op = op;
    request.offset = offset;
    request.buffers = std::span(&data, 1);
    return client->run(request);
  }
  absl::Status run(BlkOp op, uint64_t offset = 0, uint64_t length = 0) {
    BlkRequest request;
    request.op = op;
    request.offset = offset;
    request.length = length;
    return client->run(request);
  }

  // Fills `span` with something that depends on `seed`.
  static void fill(const DmaSpan& span, uint8_t seed);
  static bool is_filled(const DmaSpan& span, uint8_t seed);

  std::unique_ptr<EpollEventLoop> loop;
  AddressSpace memory;
  VhostContext context{*loop, memory};
  DmaMemory dma{context, memory};
  testing::ModelBlkOptions disk_options;
  testing::ModelOptions backend_options;
  VirtioDriver::Options driver_options;
  VirtioDriver::StartOptions start_options;
  BlkClient::Options client_options;
  FeatureSet wanted = kBlkWantedFeatures;
  std::unique_ptr<testing::ModelBlk> disk;
  std::unique_ptr<testing::ModelBackend> backend;
  std::unique_ptr<VirtioDriver> driver;
  std::unique_ptr<BlkClient> client;
};

}  // namespace vhost

#endif  // TESTS_DRIVER_BLK_FIXTURE_H_
