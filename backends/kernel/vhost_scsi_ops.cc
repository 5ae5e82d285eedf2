// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/vhost_scsi_ops.h"

#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// The control and the event queue come before those of requests.
constexpr uint32_t kFirstRequestQueue = 2;

}  // namespace

VhostScsiOps::VhostScsiOps(VhostScsiOptions options, KernelSystem system)
    : WholeDeviceOps({.label = "vhost-scsi",
                      .files = {options.device},
                      .queues_per_device = options.queues,
                      .busyloop = options.busyloop,
                      .worker_thread = options.worker_thread},
                     std::move(system)),
      options_(std::move(options)) {
  // An endpoint is cleared when the requests in flight are done.
  mutable_traits().may_block = true;
}

absl::Status VhostScsiOps::prepare(KernelDevice& device) {
  if (options_.queues <= kFirstRequestQueue) {
    return absl::InvalidArgumentError(absl::StrCat(
        options_.queues, " queues, fewer than ", kFirstRequestQueue + 1));
  }
  const absl::StatusOr<int> version = device.scsi_abi_version();
  if (!version.ok()) return version.status();
  if (*version != VHOST_SCSI_ABI_VERSION) {
    return absl::AbortedError(absl::StrCat("its interface is of version ",
                                           *version, ", not ",
                                           VHOST_SCSI_ABI_VERSION));
  }
  std::vector<uint32_t> workers;
  for (uint32_t i = 0; i < options_.workers; ++i) {
    const absl::StatusOr<uint32_t> worker = device.new_worker();
    if (!worker.ok()) return worker.status();
    workers.push_back(*worker);
  }
  for (uint32_t vq = kFirstRequestQueue;
       !workers.empty() && vq < options_.queues; ++vq) {
    const uint32_t worker = workers[(vq - kFirstRequestQueue) % workers.size()];
    VHOST_RETURN_IF_ERROR(device.attach_worker(BackendQueue{vq}, worker));
  }
  return absl::OkStatus();
}

absl::Status VhostScsiOps::run_device(KernelDevice& device) {
  return device.scsi_set_endpoint(options_.wwpn, options_.tpgt);
}

absl::Status VhostScsiOps::halt_device(KernelDevice& device) {
  return device.scsi_clear_endpoint(options_.wwpn, options_.tpgt);
}

std::unique_ptr<VhostOps> make_vhost_scsi_ops(VhostScsiOptions options) {
  return std::make_unique<VhostScsiOps>(std::move(options));
}

absl::StatusOr<int> vhost_scsi_abi_version(const VhostDeviceFile& device) {
  UniqueFd copy;
  if (const auto* use = std::get_if<UseDevice>(&device)) {
    const int fd = use->file == nullptr ? -1 : use->file->get();
    copy = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) {
      return absl::InvalidArgumentError(
          errno_status(errno, "descriptor of the device").message());
    }
  }
  auto file = copy.valid() ? adopt_vhost_file(std::move(copy))
                           : open_vhost_file(std::get<OpenDevice>(device).path);
  if (!file.ok()) return file.status();
  BackendCounters counters;
  return KernelDevice(*std::move(file), BackendQueue{0}, counters)
      .scsi_abi_version();
}

}  // namespace vhost
