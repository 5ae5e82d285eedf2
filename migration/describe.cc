// SPDX-License-Identifier: Apache-2.0
#include "migration/describe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/reconnect.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vring.h"

namespace vhost {
namespace {

using State = MigrationDevice::State;

DeviceManifest describe_device(MigrationDevice& device, size_t number) {
  const BackendTraits& traits = device.dev().traits();
  DeviceManifest out = device.describe();
  out.id = static_cast<uint32_t>(number);
  out.name = device.name();
  out.backend = traits.kind;
  out.protocol_features = traits.protocol_features;
  out.max_memory_slots = traits.max_memory_slots;
  out.log_page = kLogPageSize;
  return out;
}

// Where [gpa, gpa + size) is in this process; null: not in one block.
const std::byte* find(const std::map<uint32_t, MigrationRam>& blocks,
                      uint64_t gpa, uint64_t size) {
  for (const auto& [id, block] : blocks) {
    if (gpa < block.gpa || gpa - block.gpa >= block.size) continue;
    const uint64_t offset = gpa - block.gpa;
    return size <= block.size - offset ? block.host() + offset : nullptr;
  }
  return nullptr;
}

struct Part {
  const char* name;
  uint64_t gpa;
  uint64_t size;
};

// Source: VIRTIO 1.3, "Split Virtqueues" and "Packed Virtqueues", without the
// event indices, which not every driver has.
std::array<Part, 3> parts_of(const DeviceCore::Queue& queue,
                             RingFormat format) {
  const uint64_t num = queue.num;
  if (format == RingFormat::kPacked) {
    return {Part{"descriptor ring", queue.desc, 16 * num},
            Part{"driver area", queue.avail, 4},
            Part{"device area", queue.used, 4}};
  }
  return {Part{"descriptor table", queue.desc, 16 * num},
          Part{"available ring", queue.avail, 4 + 2 * num},
          Part{"used ring", queue.used, 4 + 8 * num}};
}

}  // namespace

RamBlock describe(const MigrationRam& ram) {
  return {.id = ram.id, .name = ram.name, .gpa = ram.gpa, .size = ram.size};
}

const DeviceManifest* find_device(const Manifest& manifest, size_t number) {
  const auto found = std::find_if(
      manifest.devices.begin(), manifest.devices.end(),
      [number](const DeviceManifest& d) { return d.id == number; });
  return found == manifest.devices.end() ? nullptr : &*found;
}

std::vector<DeviceManifest> describe_source(
    const std::vector<MigrationDevice*>& devices) {
  std::vector<DeviceManifest> out;
  for (size_t i = 0; i < devices.size(); ++i) {
    MigrationDevice& device = *devices[i];
    DeviceManifest manifest = describe_device(device, i);
    manifest.blockers = device.dev().migration_blockers();
    // What is optional is sent, and need not be taken.
    manifest.device_state = device.state() == State::kNeeded;
    const InflightArea& area = device.dev().inflight();
    if (area.fd != nullptr) {
      manifest.inflight = {.size = area.mmap_size,
                           .queues = area.num_queues,
                           .queue_size = area.queue_size};
    }
    out.push_back(std::move(manifest));
  }
  return out;
}

std::vector<DeviceManifest> describe_destination(
    const std::vector<MigrationDevice*>& devices, const Manifest& source) {
  std::vector<DeviceManifest> out;
  for (size_t i = 0; i < devices.size(); ++i) {
    const BackendTraits& traits = devices[i]->dev().traits();
    DeviceManifest manifest = describe_device(*devices[i], i);
    manifest.device_state =
        traits.has_device_state && devices[i]->state() != State::kNone;
    const DeviceManifest* theirs = find_device(source, i);
    if (traits.has_inflight && theirs != nullptr) {
      manifest.inflight = theirs->inflight;
    }
    out.push_back(std::move(manifest));
  }
  return out;
}

absl::Status check_ram(const MigrationRam& block) {
  const auto wrong = [&block](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("ram block ", block.name, ": ", why));
  };
  if (block.region == nullptr) return wrong("no memory behind it");
  if (block.size == 0 || block.size % kLogPageSize != 0 ||
      block.gpa % kLogPageSize != 0) {
    return wrong("not of whole pages");
  }
  if (block.gpa > std::numeric_limits<uint64_t>::max() - block.size) {
    return wrong("wraps");
  }
  if (block.offset_in_region > block.region->size() ||
      block.size > block.region->size() - block.offset_in_region) {
    return wrong("outside its region");
  }
  return absl::OkStatus();
}

absl::Status check_source(MigrationVmm& vmm) {
  std::vector<std::string> reasons = vmm.migration_blockers();
  for (MigrationDevice* device : vmm.devices()) {
    const VhostDev& dev = device->dev();
    const auto add = [&](absl::string_view why) {
      reasons.push_back(absl::StrCat(device->name(), ": ", why));
    };
    if (dev.state() == DeviceState::kCreated ||
        dev.state() == DeviceState::kBroken) {
      add(absl::StrCat("its back-end is not connected: ",
                       to_string(dev.state())));
      continue;
    }
    if (device->state() == State::kNeeded && !dev.traits().has_device_state) {
      add("its back-end cannot hand its state over");
    }
    const std::vector<std::string> blockers = dev.migration_blockers();
    reasons.insert(reasons.end(), blockers.begin(), blockers.end());
  }
  return refusal(reasons);
}

bool is_reconnecting(const VhostDev& dev) {
  const ReconnectState::Phase phase = dev.reconnect_state().phase;
  return phase == ReconnectState::Phase::kWaiting ||
         phase == ReconnectState::Phase::kTrying;
}

absl::Status refusal(const std::vector<std::string>& reasons) {
  if (reasons.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrJoin(reasons, "; "));
}

absl::StatusOr<uint16_t> used_index_of(
    const DeviceCore::Queue& queue,
    const std::map<uint32_t, MigrationRam>& blocks) {
  const std::byte* host = find(blocks, queue.used, 4);
  if (host == nullptr) {
    return absl::DataLossError("the used ring is not in memory that moves");
  }
  uint16_t index;
  std::memcpy(&index, host + 2, sizeof index);
  if constexpr (std::endian::native == std::endian::big) {
    index = static_cast<uint16_t>(index << 8 | index >> 8);
  }
  return index;
}

absl::Status check_rings(const DeviceCore& core,
                         const std::map<uint32_t, MigrationRam>& blocks) {
  for (size_t i = 0; i < core.queues.size(); ++i) {
    if (!core.queues[i].ready) continue;
    for (const Part& part : parts_of(core.queues[i], core.format)) {
      if (find(blocks, part.gpa, part.size) != nullptr) continue;
      return absl::DataLossError(absl::StrCat(
          "vq ", i, ": the ", part.name, " of ", part.size, " bytes at 0x",
          absl::Hex(part.gpa), " is not in memory"));
    }
  }
  return absl::OkStatus();
}

}  // namespace vhost
