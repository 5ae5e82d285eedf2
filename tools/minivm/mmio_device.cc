// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/mmio_device.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/disk_operations.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/report.h"
#include "tools/minivm/start_again.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// A header, the data and a status byte.
constexpr uint32_t kDescriptorsPerRequest = 3;
constexpr uint32_t kSmallestRing = 256;
constexpr uint32_t kLargestRing = 1024;
constexpr Duration kInitTimeout = std::chrono::seconds(30);
constexpr Duration kStopTimeout = std::chrono::seconds(10);

// What the guest may be offered; the back-end decides about most of it.
constexpr FeatureSet kDiskFeatures = kBlkWantedFeatures;
constexpr FeatureSet kNetFeatures{kNetFeatureMrgRxbuf, kFeatureIndirectDesc,
                                  kFeatureEventIdx, kFeatureVersion1};

// Of a guest that comes nobody here knows what it has.
uint16_t largest_ring(const RunOptions& run) {
  if (comes(run)) return kLargestRing;
  return static_cast<uint16_t>(
      std::bit_ceil(std::clamp(run.workload.depth * kDescriptorsPerRequest,
                               kSmallestRing, kLargestRing)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MmioDevice>> MmioDevice::create(
    VhostContext& context, FdRef vm, uint32_t number, const std::string& name,
    const DeviceOptions& device, const RunOptions& run) {
  absl::StatusOr<Backend> backend = make_backend(device);
  if (!backend.ok()) return annotate(backend.status(), name);
  std::unique_ptr<MmioDevice> out(
      new MmioDevice(device_gpa(number), name, device));
  out->tap_ = std::move(backend->tap);
  VHOST_RETURN_IF_ERROR(
      out->make_notifiers(context.loop(), vm, kDeviceGsis[number], run));
  out->make_transport(context.loop(), run);
  out->make_dev(context, std::move(backend->ops), run);
  return out;
}

// [notifiers]
// A write to the window's notification register becomes a kick, and a call
// becomes interrupt `gsi`, both inside KVM.
absl::Status MmioDevice::make_notifiers(EventLoop& loop, FdRef vm, uint32_t gsi,
                                        const RunOptions& run) {
  KvmNotifiers::Options options;
  options.name = name_;
  options.notify_gpa = gpa_ + kMmioQueueNotifyOffset;
  options.gsi = gsi;
  options.ioeventfd = run.ioeventfd;
  options.irqfd = run.irqfd;
  auto notifiers = KvmNotifiers::create(vm, loop, std::move(options));
  if (!notifiers.ok()) return notifiers.status();
  notifiers_ = *std::move(notifiers);
  return absl::OkStatus();
}
// [end]

// [transport]
// The registers that the guest's driver sees.
void MmioDevice::make_transport(EventLoop& loop, const RunOptions& run) {
  VirtioMmio::Options options;
  options.name = name_;
  options.device_id = device_.net ? kDeviceIdNet : kDeviceIdBlock;
  ring_size_ = largest_ring(run);
  options.queue_sizes.assign(device_.queues, ring_size_);
  options.config_size = device_.net ? 0 : kBlkConfigSize;
  options.interrupt = [this] { notifiers_->interrupt(); };
  options.failed = [this](const absl::Status& why) {
    failure_ = why.ToString();
    ctl::print_error(why, "minivm");
  };
  options.events = &outages_;
  transport_ = std::make_unique<VirtioMmio>(loop, std::move(options));
}
// [end]

// [dev]
// The device behind them: the transport says where the rings are, and is told
// what becomes of the back-end.
void MmioDevice::make_dev(VhostContext& context, std::unique_ptr<VhostOps> ops,
                          const RunOptions& run) {
  VhostDev::Options options;
  options.name = name_;
  options.queues = QueueMap::identity(device_.queues);
  options.mask_mode = run.mask_mode;
  options.config_size = device_.net ? 0 : kBlkConfigSize;
  options.reconnect = reconnect_policy(device_);
  transport_->set_reconnects(options.reconnect.has_value());
  dev_ = std::make_unique<VhostDev>(context, std::move(ops), *transport_,
                                    *notifiers_, *transport_,
                                    /*services=*/nullptr, std::move(options));
  if (device_.net) {
    net_ = std::make_unique<NetDevice>(*dev_, NetQueues(1, false));
    operations_ = make_transport_operations(*dev_, *net_);
  } else {
    operations_ = with_queues(make_transport_operations(*dev_),
                              static_cast<uint16_t>(device_.queues));
  }
  transport_->attach(operations_.get());
}
// [end]

// [connect]
absl::Status MmioDevice::connect() {
  VHOST_RETURN_IF_ERROR(dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kInitTimeout));
  return transport_->offer(offered());
}
// [end]

FeatureSet MmioDevice::offered() const {
  const FeatureSet ours = device_.net ? kNetFeatures : kDiskFeatures;
  return dev_->get_features(ours, ours);
}

void MmioDevice::resume(Completion done) {
  start_again(
      *dev_, outages_,
      [this](Completion over) { transport_->resume(std::move(over)); },
      std::move(done));
}

absl::Status MmioDevice::close() {
  transport_->attach(nullptr);
  dev_->stop_reconnecting();
  const absl::Status stopped = dev_->run(
      [this](Completion done) {
        if (net_ != nullptr) {
          return net_->stop(StopReason::kVmPause, std::move(done));
        }
        dev_->stop(StopReason::kVmPause, std::move(done));
      },
      kStopTimeout);
  return is_gone(*dev_, stopped) ? absl::OkStatus() : stopped;
}

absl::Status MmioDevice::set_masked(uint32_t queue, bool masked) {
  if (queue >= device_.queues) {
    return absl::InvalidArgumentError(absl::StrCat(
        name_, ": vq ", queue, ": the device has ", device_.queues));
  }
  masked ? dev_->mask(QueueIndex{queue}) : dev_->unmask(QueueIndex{queue});
  return absl::OkStatus();
}

ctl::Json MmioDevice::stats() {
  ctl::Json out = device_json(*dev_);
  if (!failure_.empty()) out["failure"] = failure_;
  const VirtioMmio::Counters seen = transport_->counters();
  ctl::Json transport = ctl::Json::object();
  transport["status"] = transport_->status();
  transport["reads"] = seen.reads;
  transport["writes"] = seen.writes;
  transport["notifies"] = seen.notifies;
  transport["starts"] = seen.starts;
  transport["resets"] = seen.resets;
  transport["refused"] = seen.refused;
  out["transport"] = std::move(transport);
  const KvmNotifiers::Counters counted = notifiers_->counters();
  ctl::Json notifiers = ctl::Json::object();
  notifiers["relayed"] = counted.relayed;
  notifiers["raised"] = counted.raised;
  notifiers["masks"] = counted.masks;
  notifiers["unmasks"] = counted.unmasks;
  notifiers["refused"] = counted.refused;
  out["notifiers"] = std::move(notifiers);
  return out;
}

}  // namespace vhost::minivm
