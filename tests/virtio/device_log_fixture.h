// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VIRTIO_DEVICE_LOG_FIXTURE_H_
#define TESTS_VIRTIO_DEVICE_LOG_FIXTURE_H_

#include <cstdint>
#include <vector>

#include "hw/virtio/context_impl.h"
#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/log_set.h"
#include "tests/virtio/device_fixture.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// LOG_ALL, as it is negotiated and not.
inline constexpr char kOn[] = "SetFeatures 0x4000000";
inline constexpr char kOff[] = "SetFeatures 0";

// A DeviceTest whose log a test turns on and off.
class DeviceLog : public DeviceTest {
 protected:
  static constexpr uint64_t kFar = uint64_t{1} << 30;  // Needs a larger log.

  absl::Status log_on() {
    const absl::Status status = context.listener().log_global_start();
    loop.run_ready();
    return status;
  }
  void log_off() {
    context.listener().log_global_stop();
    loop.run_ready();
  }
  absl::Status settle() { return context.run_until_log_settled({}); }

  // The back-end writes page `page`.
  void write(uint64_t page) {
    ASSERT_LT(page / 8, ops->backend.log_size);
    ops->backend.log_base[page / 8] |= std::byte{1} << page % 8;
  }
  std::vector<uint64_t> harvest() {
    std::vector<uint64_t> out;
    DirtyPages sink([&out](uint64_t page) { out.push_back(page); });
    context.log().harvest_all(sink);
    return out;
  }

  // Nothing of the log is left on the back-end.
  void expect_no_log_left() {
    EXPECT_FALSE(dev->logging());
    EXPECT_FALSE(ops->backend.features->has(kFeatureLogAll));
    for (const auto& [index, queue] : ops->backend.queues) {
      EXPECT_FALSE(queue.log_used) << "vq " << index;
      EXPECT_TRUE(queue.started) << "vq " << index;
    }
  }
};

}  // namespace vhost

#endif  // TESTS_VIRTIO_DEVICE_LOG_FIXTURE_H_
