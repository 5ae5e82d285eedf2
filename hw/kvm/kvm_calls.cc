// SPDX-License-Identifier: Apache-2.0
// To the guest: irqfds, and the loop where there are none.
#include <linux/kvm.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/kvm/kvm_notifiers_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// EAGAIN and ENXIO are how KVM says it; neither is to be tried again.
absl::Status refusal(int error, absl::string_view request) {
  if (error == 0) return absl::OkStatus();
  if (error != EAGAIN && error != ENXIO) return errno_status(error, request);
  return absl::FailedPreconditionError(absl::StrCat(
      request, ": the virtual machine has no interrupt controller"));
}

}  // namespace

absl::Status KvmNotifiers::Impl::bind_calls(
    std::span<const CallBinding> calls) {
  const absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < calls.size(); ++i) {
    const absl::Status status = bind_call(calls[i]);
    if (status.ok()) continue;
    for (const CallBinding& done : calls.first(i)) unbind_call(done.vector);
    return annotate(status, absl::StrCat(options_.name, ": vector ",
                                         to_int(calls[i].vector)));
  }
  return absl::OkStatus();
}

void KvmNotifiers::Impl::unbind_calls(std::span<const VectorIndex> vectors) {
  const absl::MutexLock lock(&mutex_);
  for (const VectorIndex vector : vectors) unbind_call(vector);
}

// A mask does not outlive its binding: who binds again masks again.
absl::Status KvmNotifiers::Impl::bind_call(const CallBinding& call) {
  if (vectors_.contains(call.vector)) {
    return absl::FailedPreconditionError("it is bound already");
  }
  const bool irqfd = own_.has_value();
  if (irqfd) VHOST_RETURN_IF_ERROR(set_irqfd(*call.notifier, 0));
  Vector& vector = vectors_[call.vector];
  vector.call = call.notifier;
  vector.irqfd = irqfd;
  if (!irqfd) watch(call.vector, vector);
  return absl::OkStatus();
}

void KvmNotifiers::Impl::unbind_call(VectorIndex index) {
  const auto found = vectors_.find(index);
  if (found == vectors_.end()) return;
  const Vector& vector = found->second;
  if (vector.with_kvm()) {
    static_cast<void>(
        refused(set_irqfd(*vector.call, KVM_IRQFD_FLAG_DEASSIGN)));
  }
  vectors_.erase(found);
}

// What is signalled from here on stays in the notifier; what was signalled
// before, KVM delivered when it returns from this.
void KvmNotifiers::Impl::mask(VectorIndex index) {
  const absl::MutexLock lock(&mutex_);
  const auto found = vectors_.find(index);
  if (found == vectors_.end() || found->second.masked) return;
  Vector& vector = found->second;
  ++counters_.masks;
  vector.masked = true;
  if (vector.irqfd &&
      refused(set_irqfd(*vector.call, KVM_IRQFD_FLAG_DEASSIGN))) {
    vector.irqfd = false;
  }
}

void KvmNotifiers::Impl::unmask(VectorIndex index) {
  {
    const absl::MutexLock lock(&mutex_);
    const auto found = vectors_.find(index);
    if (found == vectors_.end() || !found->second.masked) return;
    Vector& vector = found->second;
    ++counters_.unmasks;
    vector.masked = false;
    if (vector.irqfd && refused(set_irqfd(*vector.call, 0))) {
      vector.irqfd = false;
    }
    if (vector.irqfd || vector.watch != nullptr || vector.posted) return;
    vector.posted = true;
  }
  // Not under the mutex: the loop may take one of its own.
  loop_.post([weak = weak_from_this(), index] {
    if (const auto self = weak.lock()) self->watch_again(index);
  });
}

void KvmNotifiers::Impl::raise(VectorIndex vector) {
  const absl::MutexLock lock(&mutex_);
  ++counters_.raised;
  pulse(vector);
}

void KvmNotifiers::Impl::interrupt() {
  const absl::MutexLock lock(&mutex_);
  ++counters_.raised;
  pulse(kNoVector);
}

// Through a vector that KVM has, if there is one.  Pulses of one irqfd never
// overlap, but those of two may, and then the line rises once for both: a guest
// that was quick could see the first one's reason and miss the second's.
void KvmNotifiers::Impl::pulse(VectorIndex preferred) {
  auto found = vectors_.find(preferred);
  if (found == vectors_.end() || !found->second.with_kvm()) {
    found =
        std::find_if(vectors_.begin(), vectors_.end(),
                     [](const auto& entry) { return entry.second.with_kvm(); });
  }
  if (found != vectors_.end()) {
    static_cast<void>(refused(found->second.call->signal()));
  } else if (own_.has_value()) {
    static_cast<void>(refused(own_->signal()));
  } else if (!refused(set_line(true))) {
    static_cast<void>(refused(set_line(false)));
  }
}

void KvmNotifiers::Impl::watch(VectorIndex index, Vector& vector) {
  IoEvents readable;
  readable.readable = true;
  vector.watch =
      loop_.watch(vector.call->read_fd(), readable,
                  [this, index](IoEvents found) { relay(index, found); });
}

void KvmNotifiers::Impl::watch_again(VectorIndex index) {
  const absl::MutexLock lock(&mutex_);
  const auto found = vectors_.find(index);
  if (found == vectors_.end()) return;
  Vector& vector = found->second;
  vector.posted = false;
  if (vector.irqfd || vector.masked || vector.watch != nullptr) return;
  watch(index, vector);
}

void KvmNotifiers::Impl::relay(VectorIndex index, IoEvents found) {
  std::unique_ptr<EventLoop::Watch> ended;  // Destroyed without the mutex.
  const absl::MutexLock lock(&mutex_);
  Vector& vector = vectors_.at(index);  // Its watch is, so it is.
  // A notifier that hung up would wake the loop for ever.
  const bool broken = !found.readable && found.hung_up;
  if (broken) ++counters_.refused;
  if (vector.masked || broken) {
    ended = std::move(vector.watch);
    return;
  }
  if (!vector.call->test_and_clear()) return;
  ++counters_.relayed;
  pulse(index);
}

bool KvmNotifiers::Impl::refused(const absl::Status& status) {
  if (!status.ok()) ++counters_.refused;
  return !status.ok();
}

absl::Status KvmNotifiers::Impl::set_irqfd(const EventNotifier& call,
                                           uint32_t flags) {
  if (call.kind() != EventNotifier::Kind::kEventFd) {
    return absl::InvalidArgumentError(
        "KVM_IRQFD: the notifier is a pipe, not an eventfd");
  }
  kvm_irqfd arg = {};
  arg.fd = static_cast<uint32_t>(call.read_fd().get());
  arg.gsi = options_.gsi;
  arg.flags = flags;
  return refusal(vm_->ioctl(KVM_IRQFD, &arg), "KVM_IRQFD");
}

absl::Status KvmNotifiers::Impl::set_line(bool high) {
  kvm_irq_level arg = {};
  arg.irq = options_.gsi;
  arg.level = high ? 1 : 0;
  return refusal(vm_->ioctl(KVM_IRQ_LINE, &arg), "KVM_IRQ_LINE");
}

}  // namespace vhost
