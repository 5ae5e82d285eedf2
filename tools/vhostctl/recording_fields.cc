// SPDX-License-Identifier: Apache-2.0
//
// What the payloads of vhost-user messages hold.
#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "tools/vhostctl/recording_text.h"

namespace vhost::ctl {
namespace {

namespace wire = user::wire;
using Bytes = std::span<const std::byte>;
using Show = MessageField::Show;
using Fields = std::vector<MessageField>;
using user::BackendRequest;
using user::Request;

void add(Fields& out, const char* name, uint64_t value,
         Show show = Show::kDecimal) {
  out.push_back({.name = name, .show = show, .value = value});
}
void add_hex(Fields& out, const char* name, uint64_t value) {
  add(out, name, value, Show::kHex);
}
void add_text(Fields& out, const char* name, std::string text) {
  out.push_back({.name = name, .show = Show::kText, .text = std::move(text)});
}

std::string hex_of(Bytes bytes) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

// Decodes a payload that begins with a T; others are left alone.
template <wire::WireStruct T, typename Describe>
Fields with(Bytes payload, Describe describe) {
  Fields out;
  const std::optional<T> value = wire::read_prefix<T>(payload);
  if (value.has_value()) describe(*value, out);
  return out;
}

Fields u64_fields(Bytes payload, const char* name) {
  return with<uint64_t>(payload, [name](uint64_t value, Fields& out) {
    add_hex(out, name, value);
  });
}

Fields protocol_fields(Bytes payload) {
  Fields out = u64_fields(payload, "features");
  if (out.empty()) return out;
  std::vector<std::string> names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if ((out[0].value & user::bit_mask(bit)) == 0) continue;
    names.push_back(protocol_feature_name(bit));
  }
  add_text(out, "names", absl::StrJoin(names, " "));
  return out;
}

Fields state_fields(Bytes payload) {
  return with<wire::VringState>(payload,
                                [](const wire::VringState& state, Fields& out) {
                                  add(out, "index", state.index);
                                  add(out, "num", state.num);
                                });
}

Fields vring_fd_fields(Bytes payload) {
  return with<uint64_t>(payload, [](uint64_t value, Fields& out) {
    add(out, "index", value & wire::kVringIndexMask);
    add(out, "no_fd", (value & wire::kNoFdFlag) != 0 ? 1 : 0);
  });
}

Fields address_fields(Bytes payload) {
  return with<wire::VringAddr>(payload,
                               [](const wire::VringAddr& addr, Fields& out) {
                                 add(out, "index", addr.index);
                                 add_hex(out, "flags", addr.flags);
                                 add_hex(out, "descriptor", addr.descriptor);
                                 add_hex(out, "used", addr.used);
                                 add_hex(out, "available", addr.available);
                                 add_hex(out, "log", addr.log);
                               });
}

std::string region_text(const wire::MemoryRegion& region) {
  return absl::StrCat("guest 0x", absl::Hex(region.guest_address), " size 0x",
                      absl::Hex(region.size), " user 0x",
                      absl::Hex(region.user_address), " offset 0x",
                      absl::Hex(region.mmap_offset));
}

Fields memory_table_fields(Bytes payload) {
  Fields out;
  const auto head = wire::read_prefix<wire::MemoryTableHead>(payload);
  if (!head.has_value()) return out;
  add(out, "regions", head->num_regions);
  Bytes rest = payload.subspan(sizeof(*head));
  // As many as there are, whatever it says.
  while (rest.size() >= sizeof(wire::MemoryRegion)) {
    add_text(out, "region",
             region_text(*wire::read_prefix<wire::MemoryRegion>(rest)));
    rest = rest.subspan(sizeof(wire::MemoryRegion));
  }
  return out;
}

Fields one_region_fields(Bytes payload) {
  return with<wire::SingleMemoryRegion>(
      payload, [](const wire::SingleMemoryRegion& one, Fields& out) {
        add_text(out, "region", region_text(one.region));
      });
}

Fields log_fields(Bytes payload) {
  return with<wire::Log>(payload, [](const wire::Log& log, Fields& out) {
    add(out, "mmap_size", log.mmap_size);
    add(out, "mmap_offset", log.mmap_offset);
  });
}

Fields iotlb_fields(Bytes payload) {
  return with<wire::Iotlb>(payload, [](const wire::Iotlb& iotlb, Fields& out) {
    add_hex(out, "iova", iotlb.iova);
    add_hex(out, "size", iotlb.size);
    add_hex(out, "user", iotlb.user_address);
    add(out, "permissions", iotlb.permissions);
    add(out, "type", iotlb.type);
  });
}

Fields config_fields(Bytes payload) {
  return with<wire::ConfigHead>(
      payload, [payload](const wire::ConfigHead& head, Fields& out) {
        add(out, "offset", head.offset);
        add(out, "size", head.size);
        add(out, "flags", head.flags);
        add_text(out, "bytes", hex_of(payload.subspan(sizeof(head))));
      });
}

Fields inflight_fields(Bytes payload) {
  wire::Inflight in = {};
  Fields out;
  if (payload.size() < wire::kInflightSpecSize) return out;
  std::memcpy(&in, payload.data(), std::min(payload.size(), sizeof(in)));
  add(out, "mmap_size", in.mmap_size);
  add(out, "mmap_offset", in.mmap_offset);
  add(out, "num_queues", in.num_queues);
  add(out, "queue_size", in.queue_size);
  return out;
}

Fields device_state_fields(Bytes payload) {
  return with<wire::DeviceState>(
      payload, [](const wire::DeviceState& state, Fields& out) {
        add(out, "direction", state.direction);
        add(out, "phase", state.phase);
      });
}

Fields object_fields(Bytes payload) {
  return with<wire::SharedObject>(
      payload, [payload](const wire::SharedObject& object, Fields& out) {
        add_text(out, "uuid", hex_of(payload.first(sizeof(object))));
      });
}

Fields area_fields(Bytes payload) {
  return with<wire::VringArea>(payload, [](const wire::VringArea& area,
                                           Fields& out) {
    add(out, "index", area.index_and_flags & wire::kVringIndexMask);
    add(out, "no_fd", (area.index_and_flags & wire::kNoFdFlag) != 0 ? 1 : 0);
    add_hex(out, "size", area.size);
    add_hex(out, "offset", area.offset);
  });
}

Fields mmap_fields(Bytes payload) {
  return with<wire::Mmap>(payload, [](const wire::Mmap& map, Fields& out) {
    add(out, "shmid", map.shmid);
    add_hex(out, "fd_offset", map.fd_offset);
    add_hex(out, "shm_offset", map.shm_offset);
    add_hex(out, "len", map.len);
    add_hex(out, "flags", map.flags);
  });
}

Fields main_fields(Request id, bool reply, Bytes payload) {
  switch (id) {
    case Request::kGetProtocolFeatures:
    case Request::kSetProtocolFeatures:
      return reply && id == Request::kSetProtocolFeatures
                 ? u64_fields(payload, "value")
                 : protocol_fields(payload);
    case Request::kGetFeatures:
      return u64_fields(payload, "features");
    case Request::kGetVringBase:
      return state_fields(payload);
    case Request::kGetConfig:
      return config_fields(payload);
    case Request::kGetInflightFd:
      return inflight_fields(payload);
    default:
      break;
  }
  if (reply && payload.size() == sizeof(uint64_t)) {
    return u64_fields(payload, "value");
  }
  switch (id) {
    case Request::kSetFeatures:
      return u64_fields(payload, "features");
    case Request::kSetMemTable:
      return memory_table_fields(payload);
    case Request::kSetLogBase:
      return log_fields(payload);
    case Request::kSetVringNum:
    case Request::kSetVringBase:
    case Request::kSetVringEnable:
    case Request::kSetVringEndian:
    case Request::kVringKick:
      return state_fields(payload);
    case Request::kSetVringAddr:
      return address_fields(payload);
    case Request::kSetVringKick:
    case Request::kSetVringCall:
    case Request::kSetVringErr:
      return vring_fd_fields(payload);
    case Request::kIotlbMsg:
      return iotlb_fields(payload);
    case Request::kSetConfig:
      return config_fields(payload);
    case Request::kSetInflightFd:
      return inflight_fields(payload);
    case Request::kAddMemReg:
    case Request::kRemMemReg:
      return one_region_fields(payload);
    case Request::kGetSharedObject:
      return object_fields(payload);
    case Request::kSetDeviceStateFd:
      return device_state_fields(payload);
    default:
      break;
  }
  return payload.size() == sizeof(uint64_t) ? u64_fields(payload, "value")
                                            : Fields();
}

Fields backend_fields(BackendRequest id, bool reply, Bytes payload) {
  if (reply) return u64_fields(payload, "value");
  switch (id) {
    case BackendRequest::kIotlbMsg:
      return iotlb_fields(payload);
    case BackendRequest::kVringHostNotifierMsg:
      return area_fields(payload);
    case BackendRequest::kVringCall:
    case BackendRequest::kVringErr:
      return state_fields(payload);
    case BackendRequest::kSharedObjectAdd:
    case BackendRequest::kSharedObjectRemove:
    case BackendRequest::kSharedObjectLookup:
      return object_fields(payload);
    case BackendRequest::kShmemMap:
    case BackendRequest::kShmemUnmap:
      return mmap_fields(payload);
    default:
      return {};
  }
}

}  // namespace

MessageHead head_of(const Event& event) {
  const auto head =
      wire::read_prefix<wire::Header>(event.bytes).value_or(wire::Header{});
  return {.request = head.request, .flags = head.flags, .size = head.size};
}

std::string message_name(const Event& event) {
  const uint32_t request = head_of(event).request;
  return event.channel == EventChannel::kMain
             ? user::frontend_message_name(request)
             : user::backend_message_name(request);
}

std::vector<MessageField> message_fields(const Event& event) {
  if (event.bytes.size() < kMessageHeaderSize) return {};
  const MessageHead head = head_of(event);
  const Bytes payload = Bytes(event.bytes).subspan(kMessageHeaderSize);
  return event.channel == EventChannel::kMain
             ? main_fields(Request{head.request}, head.is_reply(), payload)
             : backend_fields(BackendRequest{head.request}, head.is_reply(),
                              payload);
}

}  // namespace vhost::ctl
