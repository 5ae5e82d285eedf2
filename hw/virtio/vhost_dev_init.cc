// SPDX-License-Identifier: Apache-2.0
// Connecting to a back-end, and what of it stands in the way of a migration.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Most bytes of configuration space a request carries.
// Source: vhost-user.rst, "Virtio device config space".
constexpr uint32_t kMaxConfigSize = 256;

}  // namespace

void VhostDev::Impl::init(Completion done) {
  using enum DeviceState;
  begin({.name = kInit,
         .done = std::move(done),
         .states = {kCreated, kBroken},
         .make = [this] { return init_task(); },
         .while_attempting = Attempting::kEndsIt});
}

Task VhostDev::Impl::init_task() {
  end_reconnecting(absl::CancelledError("ended by init"));
  unbind_everything();
  std::set<BackendQueue> served;
  for (const Queue& queue : queues_) {
    if (!served.insert(queue.backend).second) {
      co_return absl::InvalidArgumentError(absl::StrCat(
          "back-end queue ", to_int(queue.backend), " is mapped twice"));
    }
  }
  if (options_.queues.device_queues() > kMaxQueues) {
    co_return absl::InvalidArgumentError(absl::StrCat(
        options_.queues.device_queues(), " queues; at most ", kMaxQueues));
  }
  if (options_.config_size > kMaxConfigSize) {
    co_return absl::InvalidArgumentError(
        absl::StrCat("configuration space of ", options_.config_size,
                     " bytes; at most ", kMaxConfigSize));
  }
  const MonotonicTime deadline = after(options_.init_timeout);
  const ReconnectPolicy policy = options_.reconnect.value_or(ReconnectPolicy());
  uint32_t left = options_.reconnect.has_value() ? policy.first_attempts : 1;
  Duration pause = std::min(policy.backoff, policy.max_backoff);
  absl::Status status;
  while (true) {
    Task connection = connect(deadline);
    absl::Status tried = co_await connection;
    // What the first attempt met says more than that there is no second.
    if (!cannot_reopen_ || status.ok()) status = std::move(tried);
    const bool vain = cannot_reopen_ || loop_.now() + pause >= deadline;
    if (status.ok() || left <= 1 || vain || preempted_) break;
    --left;
    co_await Sleep(runner_, pause);
    pause = std::min(2 * pause, policy.max_backoff);
    if (preempted_) co_return absl::CancelledError("ended by a stop");
  }
  if (status.ok()) {
    broken_status_ = absl::OkStatus();
    schedule_.connected();
  }
  co_return status;
}

// To a back-end that can be this device.
Task VhostDev::Impl::connect(MonotonicTime deadline) {
  Verb open = Open{.config_size = options_.config_size};
  BatchResult opened = co_await Submit(runner_, std::move(open), deadline);
  absl::Status status = opened.status;
  cannot_reopen_ = absl::IsFailedPrecondition(status);
  if (status.ok()) status = check_backend();
  if (status.ok()) status = join();
  if (status.ok()) status = life_.move_to(DeviceState::kReady);
  if (!status.ok()) {
    context_.impl().remove_user(this);
    ops_->close(status);
    co_return status;
  }
  inflight_unwanted_ = false;
  promised_slots_ = traits().max_memory_slots;
  backend_masks_ = true;
  config_.clear();
  if (opened.bytes.size() == options_.config_size) {
    config_ = std::move(opened.bytes);
  }
  update_blockers();
  co_return status;
}

// Whether the back-end that was found can be this device.
absl::Status VhostDev::Impl::check_backend() const {
  const BackendTraits& traits = ops_->traits();
  for (const Queue& queue : queues_) {
    if (options_.fewer_queues_ok) break;
    if (to_int(queue.backend) < traits.max_queues) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("back-end queue ", to_int(queue.backend), " of ",
                     traits.max_queues, " queues"));
  }
  if (options_.config_size > 0 && !traits.has_config) {
    return absl::UnimplementedError("back-end has no configuration space");
  }
  if (device_.has_iommu() &&
      !(traits.features.has(kFeatureAccessPlatform) && traits.has_iotlb)) {
    return absl::UnimplementedError("back-end cannot work behind an IOMMU");
  }
  // Of a successor: the guest goes on with what it accepted.
  if (!traits.features.contains(acked_)) {
    return absl::UnimplementedError(absl::StrCat(
        "back-end lacks ",
        absl::StrJoin(
            feature_names(device_.device_id(), acked_ - traits.features), " "),
        ", which the guest has accepted"));
  }
  // It would need a way to ask for translations and one to be told of them.
  if (traits.kind == "vhost-user" &&
      traits.features.has(kFeatureAccessPlatform) &&
      !(traits.acks_requests && traits.has_backend_channel)) {
    return absl::UnimplementedError(
        "back-end offers ACCESS_PLATFORM without REPLY_ACK and BACKEND_REQ");
  }
  // Whoever counted on the slots (memory hot-plug) still does.
  if (traits.max_memory_slots < promised_slots_) {
    return absl::InvalidArgumentError(absl::StrCat(
        traits.max_memory_slots, " memory slots; the back-end had ",
        promised_slots_, " before"));
  }
  return absl::OkStatus();
}

absl::Status VhostDev::Impl::join() {
  applied_.clear();
  iotlb_told_ = false;
  for (Queue& queue : queues_) queue.calls_in_band = false;
  memory_changed_ = false;
  log_refused_ = absl::OkStatus();
  let_go_of_logs();  // What an earlier connection had.
  context_.impl().remove_user(this);
  return context_.impl().add_user(this);
}

std::vector<std::string> VhostDev::Impl::migration_blockers() const {
  std::vector<std::string> out = blockers_;
  if (out.empty() && traits().needs_shared_log) {
    // Looked at now, because it may end at any time: descriptors, for one.
    const absl::Status memfd = LogBitmap::check_shared();
    if (!memfd.ok()) {
      out.push_back(absl::StrCat(options_.name, ": ", memfd.message()));
    }
  }
  // What a stop left behind without noting it in an inflight area.
  for (const Queue& queue : queues_) {
    const char* why = nullptr;
    if (queue.position == Position::kLost) why = "where it stands is not known";
    if (queue.undrained || queue.unconfirmed) {
      why = "requests in flight, and no way to hand them over";
    }
    if (why == nullptr) continue;
    out.push_back(
        absl::StrCat(options_.name, ": vq ", to_int(queue.index), ": ", why));
  }
  return out;
}

void VhostDev::Impl::update_blockers() {
  std::vector<std::string> now;
  const absl::Status able = can_log();
  if (!able.ok()) {
    now.push_back(absl::StrCat(options_.name, ": ", able.message()));
  } else if (!log_refused_.ok()) {
    now.push_back(absl::StrCat(options_.name, ": runs without the dirty log: ",
                               log_refused_.message()));
  }
  if (options_.needs_device_state && !traits().has_device_state) {
    now.push_back(
        absl::StrCat(options_.name, ": back-end has no DEVICE_STATE"));
  }
  if (now == blockers_) return;
  blockers_ = std::move(now);
  events_.migration_blockers_changed();
}

}  // namespace vhost
