// SPDX-License-Identifier: Apache-2.0
// A VhostDev behind a transport.
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/net_device.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {
namespace {

constexpr FeatureSet kAllFeatures =
    FeatureSet::from_words(UINT64_MAX, UINT64_MAX);
// What the transport and the core do without the back-end's knowing.
constexpr FeatureSet kTransportsOwn = {kFeatureNotificationData,
                                       kFeatureRingReset};

// The queues' notifiers.  Notifications come on vCPUs' threads, where a
// VhostDev must not be asked.
class KickNotifiers {
 public:
  // Loop thread.  What was notified before is passed on now.
  void learn(const VhostDev& dev);
  // Loop thread: what was notified is moot.
  void forget_early();
  // Any thread.
  void signal(QueueIndex vq);

 private:
  struct Entry {
    // The device's; it keeps them until its end.
    const EventNotifier* notifier = nullptr;
    bool early = false;  // Notified, and there was no notifier yet.
  };

  absl::Mutex mutex_;
  std::array<Entry, kMaxQueues> queues_ ABSL_GUARDED_BY(mutex_);
};

void KickNotifiers::learn(const VhostDev& dev) {
  const absl::MutexLock lock(&mutex_);
  for (uint32_t i = 0; i < kMaxQueues; ++i) {
    Entry& entry = queues_[i];
    if (entry.notifier == nullptr) {
      entry.notifier = dev.kick_notifier(QueueIndex{i});
    }
    // A notifier that cannot be signalled is full, and so is set.
    if (entry.notifier != nullptr && std::exchange(entry.early, false)) {
      entry.notifier->signal().IgnoreError();
    }
  }
}

void KickNotifiers::forget_early() {
  const absl::MutexLock lock(&mutex_);
  for (Entry& entry : queues_) entry.early = false;
}

void KickNotifiers::signal(QueueIndex vq) {
  const EventNotifier* notifier = nullptr;
  {
    const absl::MutexLock lock(&mutex_);
    Entry& entry = queues_[to_int(vq) % kMaxQueues];
    notifier = entry.notifier;
    if (notifier == nullptr) entry.early = true;
  }
  if (notifier != nullptr) notifier->signal().IgnoreError();
}

// Whether nobody is left who could write to the guest's memory: the other end
// of the connection is closed, or there never was one.  A device that broke
// because its back-end is silent, refuses or talks nonsense closed the
// connection itself: that back-end may be alive, and write.
bool is_gone(const VhostDev& dev) {
  return dev.state() == DeviceState::kCreated ||
         (dev.state() == DeviceState::kBroken &&
          absl::IsUnavailable(dev.broken_status()));
}

// Shared with operations under way.
struct State {
  State(VhostDev& vhost_dev, NetDevice* net_device)
      : dev(vhost_dev), net(net_device) {}

  VhostDev& dev;
  NetDevice* const net;  // Null: not a network device.
  KickNotifiers kicks;
  bool reset_asked = false;  // Since the last start.

  absl::Status accept(FeatureSet features);
  void stop(StopReason reason, Completion done);
};

absl::Status State::accept(FeatureSet features) {
  dev.clear_acked_features();
  const FeatureSet told = features - (kTransportsOwn - dev.backend_features());
  return net != nullptr ? net->accept_features(told)
                        : dev.ack_features(kAllFeatures, told);
}

void State::stop(StopReason reason, Completion done) {
  if (net != nullptr) return net->stop(reason, std::move(done));
  dev.stop(reason, std::move(done));
}

class DeviceOperations final : public TransportOperations {
 public:
  DeviceOperations(VhostDev& dev, NetDevice* net)
      : state_(std::make_shared<State>(dev, net)) {}

  void start(FeatureSet features, Completion done) override;
  void reset(Completion done) override;
  void start_queue(QueueIndex vq, Completion done) override {
    state_->dev.start_queue(vq, learning(std::move(done)));
  }
  void stop_queue(QueueIndex vq, Completion done) override {
    state_->dev.stop_queue(vq, std::move(done));
  }
  void write_config(uint32_t offset, std::span<const std::byte> bytes,
                    Completion done) override {
    state_->dev.set_config(offset, bytes, ConfigWriter::kDriver,
                           std::move(done));
  }
  void read_config(std::span<std::byte> out, Completion done) override {
    state_->dev.get_config(0, out, std::move(done));
  }
  void pause(Completion done) override {
    state_->stop(StopReason::kVmPause, std::move(done));
  }
  void resume(Completion done) override;
  void notify(QueueIndex vq) override { state_->kicks.signal(vq); }

 private:
  // `done` behind a look at the notifiers that there are then.
  Completion learning(Completion done);

  std::shared_ptr<State> state_;
};

void DeviceOperations::start(FeatureSet features, Completion done) {
  const absl::Status accepted = state_->accept(features);
  if (accepted.ok()) return resume(std::move(done));
  // An operation without anything to do: completions never come at once.
  state_->dev.set_queues_enabled(
      {}, true,
      [accepted, done = std::move(done)](const absl::Status&) mutable {
        done(accepted);
      });
}

void DeviceOperations::resume(Completion done) {
  state_->reset_asked = false;
  Completion started = learning(std::move(done));
  if (state_->net != nullptr) return state_->net->start(std::move(started));
  state_->dev.start(std::move(started));
}

Completion DeviceOperations::learning(Completion done) {
  return [state = state_, done = std::move(done)](absl::Status status) mutable {
    if (status.ok()) state->kicks.learn(state->dev);
    done(std::move(status));
  };
}

// What is not known to be quiet is kDeadlineExceeded, as VhostDev's stop says
// it; a quiet device that does not want to be reset is kAborted.
absl::Status outcome(const VhostDev& dev, const absl::Status& stopped,
                     const absl::Status& reset) {
  if (stopped.ok()) {
    if (reset.ok() || is_gone(dev)) return absl::OkStatus();
    return absl::AbortedError(reset.message());
  }
  if (is_gone(dev)) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("the stop is not confirmed: ", stopped.message()));
}

// A start under way makes way only for a stop, so this is two operations.
void DeviceOperations::reset(Completion done) {
  state_->kicks.forget_early();
  // Asked again: only its end or its successor helps, and a stop would end the
  // attempt to find one.
  VhostDev& dev = state_->dev;
  if (std::exchange(state_->reset_asked, true) &&
      dev.state() == DeviceState::kBroken && !is_gone(dev)) {
    const absl::Status why = absl::DeadlineExceededError(absl::StrCat(
        "the stop is not confirmed: ", dev.broken_status().message()));
    return dev.set_queues_enabled(
        {}, true, [why, done = std::move(done)](const absl::Status&) mutable {
          done(why);
        });
  }
  auto stopped = [state = state_,
                  done = std::move(done)](absl::Status stop) mutable {
    // What drains still is looked at again by the next stop.
    if (!stop.ok() && state->dev.state() != DeviceState::kBroken) {
      return done(outcome(state->dev, stop, stop));
    }
    auto is_reset = [state, stop,
                     done = std::move(done)](absl::Status reset) mutable {
      done(outcome(state->dev, stop, reset));
    };
    if (state->net != nullptr) return state->net->reset(std::move(is_reset));
    state->dev.reset(std::move(is_reset));
  };
  state_->stop(StopReason::kGuestReset, std::move(stopped));
}

}  // namespace

std::unique_ptr<TransportOperations> make_transport_operations(VhostDev& dev) {
  return std::make_unique<DeviceOperations>(dev, nullptr);
}

std::unique_ptr<TransportOperations> make_transport_operations(VhostDev& dev,
                                                               NetDevice& net) {
  return std::make_unique<DeviceOperations>(dev, &net);
}

}  // namespace vhost
