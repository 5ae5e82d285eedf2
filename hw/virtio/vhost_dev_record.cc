// SPDX-License-Identifier: Apache-2.0
//
// The flight record: what is known of a device at one moment.  It asks nobody:
// neither the back-end nor the VMM.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/string_view.h"
#include "hw/virtio/ring_layout.h"
#include "hw/virtio/vhost_dev_impl.h"

namespace vhost {

// The index of an available or used ring, if it lies where it did.
std::optional<uint16_t> VhostDev::Impl::look_at_index(const Queue& queue,
                                                      const RingPart& part) {
  constexpr uint64_t kOffset = 2;
  constexpr uint64_t kSize = 2;
  uint64_t user = part.user;
  if (user != 0) {
    const bool there = view().translate(part.gpa, part.size) == user ||
                       applied_.contains(part.gpa, part.size, user);
    if (!there) return std::nullopt;
  } else {
    const RingPart word = {.gpa = part.gpa + kOffset, .size = kSize};
    const std::optional<uint64_t> found = find_told_word(word, queue.iotlb);
    if (!found.has_value()) return std::nullopt;
    user = *found - kOffset;
  }
  return read_ring_index(user, queue.ring.big_endian);
}

RingRecord VhostDev::Impl::ring_record(const Queue& queue) {
  RingRecord out;
  out.vq = queue.index;
  out.backend = queue.backend;
  out.started = queue.started;
  out.enabled = queue.runs_enabled;
  out.masked = interrupts_.masked(queue.index);
  out.base = queue.base;
  out.ring = queue.ring;
  if (queue.ring.num != 0 && queue.format == RingFormat::kSplit) {
    out.avail_index = look_at_index(queue, queue.ring.addr.avail);
    out.used_index = look_at_index(queue, queue.ring.addr.used);
  }
  return out;
}

FlightRecord VhostDev::Impl::flight_record() {
  FlightRecord out;
  out.device = options_.name;
  out.backend = std::string(traits().kind);
  out.state = std::string(to_string(state()));
  if (current_.has_value()) out.operation = std::string(current_->name);
  // Without the record that it carries.
  if (!broken_status_.ok()) {
    out.broken = absl::Status(broken_status_.code(), broken_status_.message());
  }
  out.offered = traits().features;
  out.accepted = acked_;
  out.protocol_features = traits().protocol_features;
  for (const Queue& queue : queues_) out.rings.push_back(ring_record(queue));
  out.region_count = applied_.slots_used();
  for (const MemoryTableEntry& entry :
       applied_.first(FlightRecord::kMaxRegions)) {
    out.regions.push_back(
        {.gpa = entry.gpa, .size = entry.size, .user = entry.user});
  }
  out.messages = ops_->recent();
  out.requests = ops_->request_stats();
  out.counters = ops_->counters();
  return out;
}

absl::Status VhostDev::Impl::with_record(const absl::Status& status) {
  if (status.ok() || has_flight_record(status)) return status;
  return vhost::attach(status, flight_record());
}

}  // namespace vhost
