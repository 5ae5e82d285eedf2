// SPDX-License-Identifier: Apache-2.0
// The registers of queues.
#include <bit>

#include "hw/mmio/mmio_registers.h"

namespace vhost {
namespace {

using Kind = MmioAction::Kind;

// Whether [address, address + size) is aligned and does not wrap.
bool lies_well(uint64_t address, uint64_t alignment, uint64_t size) {
  return address % alignment == 0 && address <= UINT64_MAX - size;
}

}  // namespace

uint16_t MmioRegisters::max_num(uint32_t queue) const {
  return queue < queues_.size() ? setup_.queue_sizes[queue] : uint16_t{0};
}

MmioAction MmioRegisters::write_queue(uint64_t offset, uint32_t value) {
  const bool settled = (status_ & kStatusFeaturesOk) != 0;
  // A driver that takes itself apart says so of each queue, whatever there is.
  const bool stops_nothing = offset == mmio::kQueueReady && value == 0 &&
                             (queue_sel_ >= queues_.size() ||
                              queues_[queue_sel_].state == QueueState::kOff);
  if (stops_nothing) return {};
  if (max_num(queue_sel_) == 0 || !settled || resetting()) return refuse();
  Queue& queue = queues_[queue_sel_];
  if (offset == mmio::kQueueReady) return write_ready(queue, value);
  if (offset == mmio::kQueueReset) return write_queue_reset(queue, value);
  if (queue.state != QueueState::kOff) return refuse();
  if (offset == mmio::kQueueNum) {
    const bool packed = accepted().has(kFeatureRingPacked);
    const bool fits = value > 0 && value <= max_num(queue_sel_);
    if (!fits || (!packed && !std::has_single_bit(value))) return refuse();
    queue.num = value;
    return {};
  }
  const uint64_t base = offset & ~uint64_t{4};
  uint64_t& address = base == mmio::kQueueDescLow     ? queue.desc
                      : base == mmio::kQueueDriverLow ? queue.driver
                                                      : queue.device;
  address = offset == base ? (address & ~uint64_t{UINT32_MAX}) | value
                           : (address & UINT32_MAX) | uint64_t{value} << 32;
  return {};
}

// Whether the core can be told of it.  Where the ring lies in guest memory, if
// it does, is the core's to find out.
bool MmioRegisters::ring_is_possible(const Queue& queue) const {
  if (queue.num == 0 || queue.desc == 0) return false;
  const bool packed = accepted().has(kFeatureRingPacked);
  const uint64_t num = queue.num;
  if (packed) {
    return lies_well(queue.desc, 16, 16 * num) &&
           lies_well(queue.driver, 4, 4) && lies_well(queue.device, 4, 4);
  }
  return lies_well(queue.desc, 16, 16 * num) &&
         lies_well(queue.driver, 2, 6 + 2 * num) &&
         lies_well(queue.device, 4, 6 + 8 * num);
}

MmioAction MmioRegisters::write_ready(Queue& queue, uint32_t value) {
  using enum QueueState;
  if (value == 0) return stop_queue(queue, false);
  if (value != 1) return refuse();
  if (queue.state == kOn || queue.state == kAsked || queue.state == kStarting) {
    return {};
  }
  if (queue.state != kOff || !ring_is_possible(queue)) return refuse();
  if (phase_ == Phase::kSetUp) {
    queue.state = kOn;
    return {};
  }
  if (!asks_device()) return refuse();
  queue.state = kAsked;
  MmioAction action;
  action.kind = Kind::kStartQueue;
  action.queue = QueueIndex{queue_sel_};
  return action;
}

MmioAction MmioRegisters::write_queue_reset(Queue& queue, uint32_t value) {
  if (value != 1 || !accepted().has(kFeatureRingReset)) return refuse();
  if (queue.state == QueueState::kOff) {
    queue = Queue();
    return {};
  }
  return stop_queue(queue, true);
}

MmioAction MmioRegisters::stop_queue(Queue& queue, bool reset) {
  if (queue.state != QueueState::kOn) return refuse();
  if (phase_ == Phase::kSetUp) {
    queue.state = QueueState::kOff;
    if (reset) queue = Queue();
    return {};
  }
  if (!asks_device()) return refuse();
  queue.state = QueueState::kStopping;
  queue.resetting = reset;
  MmioAction action;
  action.kind = Kind::kStopQueue;
  action.queue = QueueIndex{queue_sel_};
  return action;
}

VirtqueueConfig MmioRegisters::queue(QueueIndex vq) const {
  VirtqueueConfig config;
  if (to_int(vq) >= queues_.size()) return config;
  const Queue& queue = queues_[to_int(vq)];
  if (queue.state != QueueState::kStarting && queue.state != QueueState::kOn &&
      queue.state != QueueState::kStopping) {
    return config;
  }
  config.num = queue.num;
  config.desc_gpa = queue.desc;
  config.avail_gpa = queue.driver;
  config.used_gpa = queue.device;
  // One line, one vector: pulses of one call notifier never overlap, those of
  // two could, and then the line would rise once for both.
  config.vector = VectorIndex{0};
  return config;
}

MmioAction MmioRegisters::write_notify(uint32_t value) {
  // With NOTIFICATION_DATA the upper half says where the driver stands.
  const bool with_data = accepted().has(kFeatureNotificationData);
  const uint32_t index = with_data ? value & 0xffff : value;
  const bool there =
      index < queues_.size() && queues_[index].state != QueueState::kOff;
  if (!asks_device() || !there) return refuse();
  MmioAction action;
  action.kind = Kind::kNotify;
  action.queue = QueueIndex{index};
  return action;
}

void MmioRegisters::complete_queue(const MmioAction& action, bool ok) {
  using enum QueueState;
  Queue& queue = queues_[to_int(action.queue)];
  if (queue.state == kStarting) {
    queue.state = ok ? kOn : kOff;
  } else if (queue.state == kStopping && !ok) {
    queue.state = kStuck;
  } else if (queue.state == kStopping) {
    if (queue.resetting) {
      queue = Queue();
    } else {
      queue.state = kOff;
    }
  }
}

}  // namespace vhost
