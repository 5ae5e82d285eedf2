// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_DEVICE_PARTS_H_
#define HW_VIRTIO_DEVICE_PARTS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/task.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_ops.h"

// The values that a VhostDev::Impl is made of.

namespace vhost {

class LogBitmap;

// Something that a device was asked for, or has to do by itself.
struct DeviceOperation {
  enum class Preempts : uint8_t { kNo, kYes };
  // What it means to an attempt to reconnect that is under way: is refused, as
  // by a broken device, or ends it first.
  enum class Attempting : uint8_t { kRefused, kEndsIt };

  absl::string_view name;  // "start"; a literal.
  Completion done = nullptr;
  std::vector<DeviceState> states = {};  // Where it may begin.
  absl::AnyInvocable<Task()> make = nullptr;
  Preempts preempts = Preempts::kNo;
  Attempting while_attempting = Attempting::kRefused;
  bool waits_for_peer = false;  // A start: outlives a loss.
  bool reconnects = false;      // An attempt: nobody asked for it.
  bool internal = false;        // An update: nobody asked for it.
  bool about_log = false;       // Of the log, not of memory.
  bool kicks = false;           // Of neither: in-band kicks.
  bool moves_state = false;     // The back-end is told nothing else.
  bool collected = false;       // By run(); otherwise posted.
  uint64_t serial = 0;
};

// One that goes on beside another one.
struct BesideOperation {
  DeviceOperation operation;
  Pending pending;
  bool closed = false;  // Submitted behind the close of a broken device.
};

// One that is over, whose VMM is told when run() returns.
struct CollectedCompletion {
  Completion done;
  absl::Status status;
};

// What an IOMMU forgot while a state moved.
struct HeldInvalidation {
  uint64_t iova = 0;
  uint64_t size = 0;
  DeviceOperation operation;
};

struct DeviceQueue {
  // Whether it is known where a stopped ring goes on.
  enum class Position : uint8_t { kFresh, kKnown, kLost };

  QueueIndex index{};
  BackendQueue backend{};
  std::unique_ptr<EventNotifier> kick;  // Made on first use, then kept.
  std::optional<bool> enabled;          // As set_queues_enabled said last.

  Position position = Position::kFresh;
  VringBase base{};

  // Of the ring that runs, or ran last.
  VringSetup ring;
  RingFormat format = RingFormat::kSplit;
  VectorIndex vector = kNoVector;
  bool started = false;  // KICK is applied.
  bool runs_enabled = false;
  bool kick_bound = false;
  bool undrained = false;    // Stopped, with requests in flight.
  bool unconfirmed = false;  // Stopped, and what is in flight is not known.
  bool noted = false;        // Its requests, in the inflight area.
  bool suspended = false;    // Stopped, with requests in that area only.

  // Behind an IOMMU: the translations of `ring` that the back-end has.
  std::vector<UpdateIotlb> iotlb;

  bool calls_in_band = false;  // As the back-end was told last.
  std::unique_ptr<EventLoop::Watch> kick_watch;  // For in-band kicks.
  bool kick_due = false;
};

// What a start will do to one queue.
struct PlannedQueue {
  QueueIndex vq{};
  VringSetup setup;
  RingFormat format = RingFormat::kSplit;
  VectorIndex vector = kNoVector;
  bool bind_kick = false;
  bool enabled = true;
  std::vector<UpdateIotlb> iotlb;
};

// A start under way: what of it has to be undone.
struct StartAttempt {
  std::vector<PlannedQueue> queues;
  uint64_t generation = 0;         // Of the memory the rings were placed in.
  std::shared_ptr<LogBitmap> log;  // Null: without.
  bool features_set = false;
  std::vector<QueueIndex> kicked;
};

}  // namespace vhost

#endif  // HW_VIRTIO_DEVICE_PARTS_H_
