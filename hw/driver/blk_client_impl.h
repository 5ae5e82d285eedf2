// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_BLK_CLIENT_IMPL_H_
#define HW_DRIVER_BLK_CLIENT_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "hw/driver/blk_queue.h"
#include "hw/driver/queue_sleep.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

struct BlkClient::Impl {
  Impl(VirtioDriver& virtio_driver, const BlkConfig& blk_config,
       const Options& chosen)
      : driver(virtio_driver), config(blk_config), options(chosen) {}

  // Whether a client of `queues` queues can have these options.
  static absl::Status check(const VirtioDriver& driver, size_t queues,
                            const Options& options);

  absl::Status restore_queues(const BlkClientState& state);
  uint32_t in_flight() const;
  void note_failure();
  size_t poll(std::span<BlkCompletion> out);
  // Until the device signals, the loop has something to do, or `until`.
  void sleep(MonotonicTime until);
  void give_up(Duration waited);

  VirtioDriver& driver;
  const BlkConfig config;
  const Options options;
  std::vector<std::unique_ptr<BlkQueue>> queues;
  DmaBuffer id;
  uint32_t next_submit = 0;  // Queues take turns.
  uint32_t next_poll = 0;
  absl::Status status;
  QueueSleep queue_sleep;
};

}  // namespace vhost

#endif  // HW_DRIVER_BLK_CLIENT_IMPL_H_
