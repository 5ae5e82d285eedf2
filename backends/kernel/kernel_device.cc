// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/kernel_device.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/kernel/refusal.h"
#include "backends/kernel/vhost_uapi.h"
#include "vhostdev/status.h"

namespace vhost {

KernelDevice::KernelDevice(std::unique_ptr<VhostFile> file, BackendQueue first,
                           BackendCounters& counters)
    : file_(std::move(file)), first_(first), counters_(&counters) {}

absl::Status KernelDevice::call(unsigned long request, void* arg) {
  ++counters_->messages;
  const int error = file_->ioctl(request, arg);
  return error == 0 ? absl::OkStatus() : refusal(request, std::nullopt, error);
}

// `arg` begins with the queue's index in this device.
absl::Status KernelDevice::queue_call(BackendQueue vq, unsigned long request,
                                      void* arg) {
  const uint32_t index = local(vq);
  std::memcpy(arg, &index, sizeof(index));
  ++counters_->messages;
  const int error = file_->ioctl(request, arg);
  return error == 0 ? absl::OkStatus() : refusal(request, vq, error);
}

// ---------------------------------------------------------------------------
// Ownership and features
// ---------------------------------------------------------------------------

absl::Status KernelDevice::set_owner() {
  return call(VHOST_SET_OWNER, nullptr);
}

absl::Status KernelDevice::reset_owner() {
  return call(VHOST_RESET_OWNER, nullptr);
}

absl::Status KernelDevice::set_fork_from_owner(bool fork) {
  uint8_t arg = fork ? VHOST_FORK_OWNER_TASK : VHOST_FORK_OWNER_KTHREAD;
  return call(VHOST_SET_FORK_FROM_OWNER, &arg);
}

absl::StatusOr<bool> KernelDevice::fork_from_owner() {
  uint8_t arg = 0;
  VHOST_RETURN_IF_ERROR(call(VHOST_GET_FORK_FROM_OWNER, &arg));
  return arg == VHOST_FORK_OWNER_TASK;
}

absl::StatusOr<FeatureSet> KernelDevice::features() {
  // A kernel that does not know the request takes its first word, 2, for the
  // index of a ring: the errno tells nothing, and the older request is asked
  // whatever it is.
  KernelFeaturesArray array = {.count = 2, .words = {}};
  if (call(VHOST_GET_FEATURES_ARRAY, &array).ok()) {
    return FeatureSet::from_words(array.words[0], array.words[1]);
  }
  uint64_t low = 0;
  VHOST_RETURN_IF_ERROR(call(VHOST_GET_FEATURES, &low));
  return FeatureSet::from_words(low);
}

absl::Status KernelDevice::set_features(FeatureSet features) {
  if (features.high() != 0) {
    KernelFeaturesArray array = {.count = 2,
                                 .words = {features.low(), features.high()}};
    return call(VHOST_SET_FEATURES_ARRAY, &array);
  }
  uint64_t low = features.low();
  return call(VHOST_SET_FEATURES, &low);
}

absl::StatusOr<uint64_t> KernelDevice::backend_features() {
  uint64_t features = 0;
  VHOST_RETURN_IF_ERROR(call(VHOST_GET_BACKEND_FEATURES, &features));
  return features;
}

absl::Status KernelDevice::set_backend_features(uint64_t features) {
  return call(VHOST_SET_BACKEND_FEATURES, &features);
}

// ---------------------------------------------------------------------------
// Memory and log
// ---------------------------------------------------------------------------

absl::Status KernelDevice::set_memory_table(std::span<std::byte> table) {
  return call(VHOST_SET_MEM_TABLE, table.data());
}

absl::Status KernelDevice::set_log_base(uint64_t base) {
  return call(VHOST_SET_LOG_BASE, &base);
}

absl::Status KernelDevice::set_log_fd(int fd) {
  if (fd >= 0) ++counters_->fds;
  return call(VHOST_SET_LOG_FD, &fd);
}

// ---------------------------------------------------------------------------
// Queues
// ---------------------------------------------------------------------------

absl::Status KernelDevice::set_state(BackendQueue vq, unsigned long request,
                                     uint32_t num) {
  vhost_vring_state arg = {.index = 0, .num = num};
  return queue_call(vq, request, &arg);
}

absl::StatusOr<uint32_t> KernelDevice::get_state(BackendQueue vq,
                                                 unsigned long request) {
  vhost_vring_state arg = {};
  VHOST_RETURN_IF_ERROR(queue_call(vq, request, &arg));
  return arg.num;
}

absl::Status KernelDevice::set_file(BackendQueue vq, unsigned long request,
                                    int fd) {
  if (fd >= 0) ++counters_->fds;
  vhost_vring_file arg = {.index = 0, .fd = fd};
  return queue_call(vq, request, &arg);
}

absl::Status KernelDevice::set_num(BackendQueue vq, uint32_t num) {
  return set_state(vq, VHOST_SET_VRING_NUM, num);
}

absl::Status KernelDevice::set_base(BackendQueue vq, uint32_t base) {
  return set_state(vq, VHOST_SET_VRING_BASE, base);
}

absl::StatusOr<uint32_t> KernelDevice::base(BackendQueue vq) {
  return get_state(vq, VHOST_GET_VRING_BASE);
}

absl::Status KernelDevice::set_addr(BackendQueue vq,
                                    const Addresses& addresses) {
  vhost_vring_addr arg = {
      .index = 0,
      .flags = addresses.log ? 1u << VHOST_VRING_F_LOG : 0u,
      .desc_user_addr = addresses.desc,
      .used_user_addr = addresses.used,
      .avail_user_addr = addresses.avail,
      .log_guest_addr = addresses.log_gpa,
  };
  return queue_call(vq, VHOST_SET_VRING_ADDR, &arg);
}

absl::Status KernelDevice::set_big_endian(BackendQueue vq, bool big) {
  return set_state(vq, VHOST_SET_VRING_ENDIAN,
                   big ? VHOST_VRING_BIG_ENDIAN : VHOST_VRING_LITTLE_ENDIAN);
}

absl::Status KernelDevice::set_kick(BackendQueue vq, int fd) {
  return set_file(vq, VHOST_SET_VRING_KICK, fd);
}

absl::Status KernelDevice::set_call(BackendQueue vq, int fd) {
  return set_file(vq, VHOST_SET_VRING_CALL, fd);
}

absl::Status KernelDevice::set_err(BackendQueue vq, int fd) {
  return set_file(vq, VHOST_SET_VRING_ERR, fd);
}

absl::Status KernelDevice::set_busyloop(BackendQueue vq,
                                        uint32_t microseconds) {
  return set_state(vq, VHOST_SET_VRING_BUSYLOOP_TIMEOUT, microseconds);
}

absl::StatusOr<uint32_t> KernelDevice::busyloop(BackendQueue vq) {
  return get_state(vq, VHOST_GET_VRING_BUSYLOOP_TIMEOUT);
}

// ---------------------------------------------------------------------------
// Worker threads
// ---------------------------------------------------------------------------

absl::StatusOr<uint32_t> KernelDevice::new_worker() {
  vhost_worker_state arg = {};
  VHOST_RETURN_IF_ERROR(call(VHOST_NEW_WORKER, &arg));
  return arg.worker_id;
}

absl::Status KernelDevice::free_worker(uint32_t worker) {
  vhost_worker_state arg = {.worker_id = worker};
  return call(VHOST_FREE_WORKER, &arg);
}

absl::Status KernelDevice::attach_worker(BackendQueue vq, uint32_t worker) {
  vhost_vring_worker arg = {.index = 0, .worker_id = worker};
  return queue_call(vq, VHOST_ATTACH_VRING_WORKER, &arg);
}

absl::StatusOr<uint32_t> KernelDevice::worker_of(BackendQueue vq) {
  vhost_vring_worker arg = {};
  VHOST_RETURN_IF_ERROR(queue_call(vq, VHOST_GET_VRING_WORKER, &arg));
  return arg.worker_id;
}

// ---------------------------------------------------------------------------
// Device classes
// ---------------------------------------------------------------------------

absl::Status KernelDevice::net_set_backend(BackendQueue vq, int fd) {
  return set_file(vq, VHOST_NET_SET_BACKEND, fd);
}

absl::Status KernelDevice::vsock_set_guest_cid(uint64_t cid) {
  return call(VHOST_VSOCK_SET_GUEST_CID, &cid);
}

absl::Status KernelDevice::vsock_set_running(bool running) {
  int arg = running ? 1 : 0;
  return call(VHOST_VSOCK_SET_RUNNING, &arg);
}

absl::Status KernelDevice::endpoint(unsigned long request,
                                    const std::string& wwpn, uint16_t tpgt) {
  vhost_scsi_target arg = {};
  arg.abi_version = VHOST_SCSI_ABI_VERSION;
  if (wwpn.empty() || wwpn.size() >= sizeof(arg.vhost_wwpn)) {
    return absl::InvalidArgumentError(
        absl::StrCat(request_name(request), ": a wwpn of ", wwpn.size(),
                     " characters, not 1 to ", sizeof(arg.vhost_wwpn) - 1));
  }
  std::memcpy(arg.vhost_wwpn, wwpn.data(), wwpn.size());
  arg.vhost_tpgt = tpgt;
  return call(request, &arg);
}

absl::Status KernelDevice::scsi_set_endpoint(const std::string& wwpn,
                                             uint16_t tpgt) {
  return endpoint(VHOST_SCSI_SET_ENDPOINT, wwpn, tpgt);
}

absl::Status KernelDevice::scsi_clear_endpoint(const std::string& wwpn,
                                               uint16_t tpgt) {
  return endpoint(VHOST_SCSI_CLEAR_ENDPOINT, wwpn, tpgt);
}

absl::StatusOr<int> KernelDevice::scsi_abi_version() {
  int version = 0;
  VHOST_RETURN_IF_ERROR(call(VHOST_SCSI_GET_ABI_VERSION, &version));
  return version;
}

absl::Status KernelDevice::scsi_set_events_missed(bool missed) {
  uint32_t arg = missed ? 1 : 0;
  return call(VHOST_SCSI_SET_EVENTS_MISSED, &arg);
}

absl::StatusOr<bool> KernelDevice::scsi_events_missed() {
  uint32_t arg = 0;
  VHOST_RETURN_IF_ERROR(call(VHOST_SCSI_GET_EVENTS_MISSED, &arg));
  return arg != 0;
}

// ---------------------------------------------------------------------------
// The device IOTLB
// ---------------------------------------------------------------------------

absl::Status KernelDevice::send_iotlb(const UpdateIotlb& update,
                                      IotlbVersion version) {
  const IotlbMessage message = encode_iotlb(update, version);
  ++counters_->messages;
  const int error = file_->write(message);
  if (error == 0) return absl::OkStatus();
  const IotlbEntry& entry = update.entry;
  const std::string what = absl::StrCat(
      entry.access == IotlbAccess::kNone ? "invalidation" : "translation",
      " of ", entry.size, " bytes at iova 0x", absl::Hex(entry.iova));
  const absl::Status status = errno_status(error, what);
  return error == ENODEV || error == ENOMEM
             ? status
             : absl::AbortedError(status.message());
}

absl::StatusOr<std::optional<IotlbRequest>> KernelDevice::next_iotlb(
    IotlbVersion version) {
  // One more, to notice what is too long.
  std::array<std::byte, kIotlbMessageSize + 1> buffer = {};
  size_t size = 0;
  const int error = file_->read(buffer, size);
  if (error == EAGAIN || error == EINTR) return std::nullopt;
  if (error != 0) {
    return absl::UnavailableError(
        errno_status(error, "reading IOTLB messages").message());
  }
  ++counters_->replies;
  const absl::StatusOr<IotlbRequest> request =
      decode_iotlb(std::span(buffer).first(size), version);
  if (!request.ok()) return request.status();
  return *request;
}

}  // namespace vhost
