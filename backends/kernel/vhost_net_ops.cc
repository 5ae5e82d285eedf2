// SPDX-License-Identifier: Apache-2.0
#include "backends/kernel/vhost_net_ops.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/kernel/vhost_uapi.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint32_t kQueuesPerPair = 2;

// Bit 27, VIRTIO's ANY_LAYOUT, means another thing here: the kernel adds the
// header on receive and strips it on transmit.
constexpr unsigned kKernelHasHeader = VHOST_NET_F_VIRTIO_NET_HDR;

// What the VMM does, not whoever moves frames: offered as far as this back-end
// is concerned, and not told to the kernel, which does not know them.
constexpr FeatureSet kVmmsOwn = {kNetFeatureMq, kNetFeatureCtrlVq,
                                 kNetFeatureGuestAnnounce};

std::vector<VhostDeviceFile> files_of(const VhostNetOptions& options) {
  std::vector<VhostDeviceFile> out;
  for (size_t i = 0; i < options.taps.size(); ++i) {
    if (options.files.empty()) {
      out.emplace_back(OpenDevice{options.path});
    } else {
      out.emplace_back(
          UseDevice{i < options.files.size() ? options.files[i] : nullptr});
    }
  }
  return out;
}

}  // namespace

VhostNetOps::VhostNetOps(VhostNetOptions options, KernelSystem system)
    : VhostKernelOps({.label = "vhost-net",
                      .files = files_of(options),
                      .queues_per_device = kQueuesPerPair,
                      .busyloop = options.busyloop,
                      .worker_thread = options.worker_thread},
                     std::move(system)),
      options_(std::move(options)),
      taps_(options_.taps.size() * kQueuesPerPair) {
  mutable_traits().has_queue_enable = true;
}

absl::Status VhostNetOps::prepare(KernelDevice&) { return absl::OkStatus(); }

absl::Status VhostNetOps::choose_features(FeatureSet& offered) {
  if (!options_.files.empty() &&
      options_.files.size() != options_.taps.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options_.files.size(), " open devices for ",
                     options_.taps.size(), " taps"));
  }
  if (!options_.tap_has_vnet_header && !offered.has(kKernelHasHeader)) {
    return absl::UnimplementedError(
        "the tap has no vnet header and the kernel does not make one");
  }
  if (options_.tap_has_vnet_header && !options_.tap_header_can_be_12) {
    offered.clear(kNetFeatureMrgRxbuf).clear(kFeatureVersion1);
  }
  offered.clear(kKernelHasHeader);
  offered = offered | kVmmsOwn;
  offered.set(kNetFeatureMq, options_.taps.size() > 1);
  return absl::OkStatus();
}

FeatureSet VhostNetOps::kernel_features(FeatureSet features) const {
  features = features - kVmmsOwn;
  return features.set(kKernelHasHeader, !options_.tap_has_vnet_header);
}

void VhostNetOps::set_going(const Go& verb, BatchSteps& steps) {
  // ORDER: a queue with its tap attached is served as soon as it is kicked.
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled) continue;
    steps.add(StepKind::kEnable, queue.index, attach_tap(queue.index));
  }
}

void VhostNetOps::halt(const Quiesce& verb, BatchSteps& steps) {
  for (const BackendQueue vq : verb.queues) {
    const bool was = has(vq) && taps_[to_int(vq)].attached;
    if (steps.add(StepKind::kDisable, vq, detach_tap(vq))) {
      taps_[to_int(vq)].resume = was;
    }
  }
}

absl::Status VhostNetOps::halt_for_harvest(BackendQueue vq) {
  return taps_[to_int(vq)].attached ? detach_tap(vq) : absl::OkStatus();
}

void VhostNetOps::forget(BackendQueue vq) { taps_[to_int(vq)] = Tap(); }

void VhostNetOps::resume(BatchSteps& steps) {
  for (uint32_t i = 0; i < taps_.size(); ++i) {
    if (!std::exchange(taps_[i].resume, false)) continue;
    steps.add(StepKind::kEnable, BackendQueue{i}, attach_tap(BackendQueue{i}));
  }
}

void VhostNetOps::enable(const SetQueuesEnabled& verb, BatchSteps& steps) {
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    const BackendQueue vq = queue.index;
    if (queue.enabled) {
      steps.add(StepKind::kEnable, vq, attach_tap(vq));
    } else {
      steps.add(StepKind::kDisable, vq, detach_tap(vq));
    }
  }
}

void VhostNetOps::devices_gone() { taps_.assign(taps_.size(), Tap()); }

absl::Status VhostNetOps::attach_tap(BackendQueue vq) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  if (!queue(vq).started) {
    return absl::AbortedError(
        absl::StrCat("vhost-net: vq ", to_int(vq), " is not started"));
  }
  const int tap = options_.taps[to_int(vq) / kQueuesPerPair].get();
  VHOST_RETURN_IF_ERROR(with_translations(
      device_of(vq),
      [&](KernelDevice& device) { return device.net_set_backend(vq, tap); }));
  taps_[to_int(vq)].attached = true;
  return absl::OkStatus();
}

absl::Status VhostNetOps::detach_tap(BackendQueue vq) {
  VHOST_RETURN_IF_ERROR(check_queue(vq));
  VHOST_RETURN_IF_ERROR(device_of(vq).net_set_backend(vq, -1));
  taps_[to_int(vq)].attached = false;
  return absl::OkStatus();
}

std::unique_ptr<VhostOps> make_vhost_net_ops(VhostNetOptions options) {
  return std::make_unique<VhostNetOps>(std::move(options));
}

}  // namespace vhost
