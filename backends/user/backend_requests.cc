// SPDX-License-Identifier: Apache-2.0
//
// What each request of the back-end does.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/backend_channel.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

using Bytes = std::span<const std::byte>;

// Payload sizes were checked against the message table.
template <wire::WireStruct T>
T payload_as(Bytes payload) {
  return wire::read_prefix<T>(payload).value_or(T{});
}

absl::StatusOr<BackendQueue> in_band_queue(Bytes payload) {
  const auto state = payload_as<wire::VringState>(payload);
  if (state.num != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("reserved field has ", state.num));
  }
  return BackendQueue{state.index};
}

}  // namespace

absl::Status BackendChannel::dispatch(BackendRequest id, Bytes payload,
                                      std::vector<UniqueFd> fds,
                                      UniqueFd& answer_fd) {
  switch (id) {
    case BackendRequest::kIotlbMsg:
      return serve_iotlb(payload);
    case BackendRequest::kConfigChangeMsg:
      host_->on_config_changed();
      return absl::OkStatus();
    case BackendRequest::kVringHostNotifierMsg:
      return serve_host_notifier(payload, std::move(fds));
    case BackendRequest::kVringCall:
    case BackendRequest::kVringErr: {
      const absl::StatusOr<BackendQueue> vq = in_band_queue(payload);
      if (!vq.ok()) return vq.status();
      return id == BackendRequest::kVringCall ? host_->on_vring_call(*vq)
                                              : host_->on_vring_error(*vq);
    }
    case BackendRequest::kSharedObjectAdd:
    case BackendRequest::kSharedObjectRemove:
    case BackendRequest::kSharedObjectLookup:
      return serve_object(id, payload, answer_fd);
    case BackendRequest::kShmemMap:
    case BackendRequest::kShmemUnmap:
      return serve_shmem(id, payload, std::move(fds));
  }
  return absl::UnimplementedError("unknown request");
}

absl::Status BackendChannel::serve_iotlb(Bytes payload) {
  const auto msg = payload_as<wire::Iotlb>(payload);
  if (msg.permissions > static_cast<uint8_t>(IotlbAccess::kBoth)) {
    return absl::InvalidArgumentError(
        absl::StrCat("permissions ", msg.permissions));
  }
  const auto access = static_cast<IotlbAccess>(msg.permissions);
  switch (msg.type) {
    case wire::kIotlbMiss:
      return host_->on_iotlb_miss(msg.iova, access);
    case wire::kIotlbAccessFail:
      host_->services().iotlb_access_failed(msg.iova, access);
      return absl::OkStatus();
    default:
      // Updates and invalidations are the front-end's to send.
      return absl::InvalidArgumentError(
          absl::StrCat("iotlb message type ", msg.type));
  }
}

absl::Status BackendChannel::serve_host_notifier(Bytes payload,
                                                 std::vector<UniqueFd> fds) {
  const auto msg = payload_as<wire::VringArea>(payload);
  HostNotifierArea area;
  if (!fds.empty()) {
    area.fd = std::move(fds.front());
    area.offset = msg.offset;
    area.size = msg.size;
  }
  return host_->on_host_notifier(
      BackendQueue{
          static_cast<uint32_t>(msg.index_and_flags & wire::kVringIndexMask)},
      std::move(area));
}

absl::Status BackendChannel::serve_object(BackendRequest id, Bytes payload,
                                          UniqueFd& answer_fd) {
  ObjectUuid uuid = {};
  std::memcpy(uuid.data(), payload.data(), uuid.size());
  if (id == BackendRequest::kSharedObjectAdd) {
    return host_->services().add_shared_object(uuid);
  }
  if (id == BackendRequest::kSharedObjectRemove) {
    return host_->services().remove_shared_object(uuid);
  }
  absl::StatusOr<UniqueFd> fd = host_->services().look_up_shared_object(uuid);
  if (!fd.ok()) return fd.status();
  if (!fd->valid()) return absl::NotFoundError("object without descriptor");
  answer_fd = *std::move(fd);
  return absl::OkStatus();
}

absl::Status BackendChannel::serve_shmem(BackendRequest id, Bytes payload,
                                         std::vector<UniqueFd> fds) {
  const auto msg = payload_as<wire::Mmap>(payload);
  if (msg.len == 0 || msg.shm_offset + msg.len < msg.shm_offset ||
      msg.fd_offset + msg.len < msg.fd_offset) {
    return absl::InvalidArgumentError(
        absl::StrCat("mapping of ", msg.len, " bytes at ", msg.shm_offset));
  }
  const SharedMemoryMapping mapping = {
      .shmid = msg.shmid,
      .fd_offset = msg.fd_offset,
      .shm_offset = msg.shm_offset,
      .length = msg.len,
      .writable = (msg.flags & wire::kMmapWritable) != 0,
  };
  if (id == BackendRequest::kShmemUnmap) {
    return host_->services().unmap_shared_memory(mapping);
  }
  return host_->services().map_shared_memory(mapping, std::move(fds.front()));
}

}  // namespace vhost::user
