// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/kvm_notifiers.h"

#include <linux/kvm.h>

#include <utility>
#include <vector>

#include "hw/kvm/kvm_notifiers_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Where a PC's second interrupt controller is connected to the first.
constexpr uint32_t kCascadeGsi = 2;

}  // namespace

KvmNotifiers::Impl::Impl(std::unique_ptr<KvmVm> vm, EventLoop& loop,
                         Options options)
    : vm_(std::move(vm)), loop_(loop), options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<KvmNotifiers>> KvmNotifiers::Impl::create(
    std::unique_ptr<KvmVm> vm, EventLoop& loop, Options options) {
  auto impl = std::make_shared<Impl>(std::move(vm), loop, std::move(options));
  const absl::Status status = impl->set_up();
  if (!status.ok()) return annotate(status, impl->options().name);
  return std::unique_ptr<KvmNotifiers>(new KvmNotifiers(std::move(impl)));
}

absl::Status KvmNotifiers::Impl::set_up() {
  if (options_.gsi == kCascadeGsi) {
    return absl::InvalidArgumentError("gsi 2 cannot be raised");
  }
  ioeventfd_ = options_.ioeventfd && vm_->extension(KVM_CAP_IOEVENTFD) > 0;
  if (options_.irqfd && vm_->extension(KVM_CAP_IRQFD) > 0) {
    absl::StatusOr<EventNotifier> made =
        EventNotifier::create(EventNotifier::Kind::kEventFd);
    if (!made.ok()) return made.status();
    VHOST_RETURN_IF_ERROR(set_irqfd(*made, 0));
    const absl::MutexLock lock(&mutex_);
    own_ = std::move(*made);
    return absl::OkStatus();
  }
  if (vm_->extension(KVM_CAP_IRQCHIP) <= 0) {
    return absl::UnimplementedError(
        "KVM has neither irqfd nor KVM_IRQ_LINE here");
  }
  return set_line(false);
}

void KvmNotifiers::Impl::close() {
  while (!kicks_.empty()) unbind_kick(kicks_.begin()->first);
  const absl::MutexLock lock(&mutex_);
  while (!vectors_.empty()) unbind_call(vectors_.begin()->first);
  if (!own_.has_value()) return;
  static_cast<void>(refused(set_irqfd(*own_, KVM_IRQFD_FLAG_DEASSIGN)));
}

KvmNotifiers::Counters KvmNotifiers::Impl::counters() const {
  const absl::MutexLock lock(&mutex_);
  return counters_;
}

KvmNotifiers::KvmNotifiers(std::shared_ptr<Impl> impl)
    : impl_(std::move(impl)) {}

KvmNotifiers::~KvmNotifiers() { impl_->close(); }

absl::StatusOr<std::unique_ptr<KvmNotifiers>> KvmNotifiers::create(
    FdRef vm, EventLoop& loop, Options options) {
  return Impl::create(make_system_vm(vm), loop, std::move(options));
}

void KvmNotifiers::interrupt() { impl_->interrupt(); }

KvmNotifiers::Counters KvmNotifiers::counters() const {
  return impl_->counters();
}

absl::Status KvmNotifiers::bind_kicks(std::span<const KickBinding> kicks) {
  return impl_->bind_kicks(kicks);
}

void KvmNotifiers::unbind_kicks(std::span<const QueueIndex> queues) {
  impl_->unbind_kicks(queues);
}

absl::Status KvmNotifiers::bind_calls(std::span<const CallBinding> calls) {
  return impl_->bind_calls(calls);
}

void KvmNotifiers::unbind_calls(std::span<const VectorIndex> vectors) {
  impl_->unbind_calls(vectors);
}

void KvmNotifiers::mask(VectorIndex vector) { impl_->mask(vector); }

void KvmNotifiers::unmask(VectorIndex vector) { impl_->unmask(vector); }

void KvmNotifiers::raise(VectorIndex vector) { impl_->raise(vector); }

NotifyMode KvmNotifiers::kick_mode(QueueIndex) const {
  return impl_->options().kick_mode;
}

NotifyMode KvmNotifiers::call_mode(QueueIndex) const {
  return impl_->options().call_mode;
}

}  // namespace vhost
