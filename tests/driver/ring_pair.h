// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_DRIVER_RING_PAIR_H_
#define TESTS_DRIVER_RING_PAIR_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "tests/driver/ring_device.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost {

// A queue and its device over one memory.
struct RingPair {
  explicit RingPair(uint32_t num, bool event_index = false,
                    uint32_t indirect_entries = 0, uint16_t first_index = 0)
      : memory(num, indirect_entries),
        device(memory.parts(), event_index, first_index) {
    SplitVirtqueue::Options options = memory.options();
    options.event_index = event_index;
    options.first_index = first_index;
    queue = SplitVirtqueue::create(options).value();
  }

  // Submits `readable` and `writable` buffers of 16 bytes and publishes them.
  absl::Status submit(uint64_t cookie, uint32_t readable = 1,
                      uint32_t writable = 0) {
    const absl::Status status = put(cookie, readable, writable);
    static_cast<void>(queue->publish());
    return status;
  }
  // Without publishing.
  absl::Status put(uint64_t cookie, uint32_t readable = 1,
                   uint32_t writable = 0) {
    SplitVirtqueue::Request request = queue->begin(readable + writable, cookie);
    if (!request.ok()) return request.status();
    for (uint32_t i = 0; i < readable; ++i) {
      EXPECT_TRUE(request.add_readable(0x1000 + i, 16).ok());
    }
    for (uint32_t i = 0; i < writable; ++i) {
      EXPECT_TRUE(request.add_writable(0x2000 + i, 16).ok());
    }
    return request.submit();
  }

  std::vector<uint64_t> poll(size_t most = 64) {
    std::vector<RingCompletion> done(most);
    const size_t count = queue->poll(done).value();
    std::vector<uint64_t> cookies;
    for (size_t i = 0; i < count; ++i) cookies.push_back(done[i].cookie);
    return cookies;
  }

  // One request through the ring and back.
  void round() {
    ASSERT_TRUE(submit(7).ok());
    ASSERT_TRUE(device.pop().has_value());
    device.complete(0, 0);
    ASSERT_THAT(poll(), ::testing::ElementsAre(7));
  }

  RingMemory memory;
  RingDevice device;
  std::unique_ptr<SplitVirtqueue> queue;
};

}  // namespace vhost

#endif  // TESTS_DRIVER_RING_PAIR_H_
