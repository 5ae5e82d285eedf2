// SPDX-License-Identifier: Apache-2.0
// From the guest: ioeventfds.
#include <linux/kvm.h>

#include "absl/strings/str_cat.h"
#include "hw/kvm/kvm_notifiers_impl.h"
#include "vhostdev/status.h"

namespace vhost {

absl::Status KvmNotifiers::Impl::bind_kicks(
    std::span<const KickBinding> kicks) {
  if (!ioeventfd_) return absl::OkStatus();
  for (size_t i = 0; i < kicks.size(); ++i) {
    const absl::Status status = bind_kick(kicks[i]);
    if (status.ok()) continue;
    for (const KickBinding& done : kicks.first(i)) unbind_kick(done.queue);
    return annotate(
        status, absl::StrCat(options_.name, ": vq ", to_int(kicks[i].queue)));
  }
  return absl::OkStatus();
}

void KvmNotifiers::Impl::unbind_kicks(std::span<const QueueIndex> queues) {
  for (const QueueIndex queue : queues) unbind_kick(queue);
}

absl::Status KvmNotifiers::Impl::bind_kick(const KickBinding& kick) {
  if (kicks_.contains(kick.queue)) {
    return absl::FailedPreconditionError("its kicks are bound already");
  }
  VHOST_RETURN_IF_ERROR(set_ioeventfd(kick.queue, *kick.notifier, 0));
  kicks_.emplace(kick.queue, kick.notifier);
  return absl::OkStatus();
}

void KvmNotifiers::Impl::unbind_kick(QueueIndex queue) {
  const auto found = kicks_.find(queue);
  if (found == kicks_.end()) return;
  const absl::Status status =
      set_ioeventfd(queue, *found->second, KVM_IOEVENTFD_FLAG_DEASSIGN);
  kicks_.erase(found);
  const absl::MutexLock lock(&mutex_);
  static_cast<void>(refused(status));
}

// The guest writes the queue's number, and KVM compares it: the same address
// has a notifier for each queue.
absl::Status KvmNotifiers::Impl::set_ioeventfd(QueueIndex queue,
                                               const EventNotifier& kick,
                                               uint32_t flags) {
  if (kick.kind() != EventNotifier::Kind::kEventFd) {
    return absl::InvalidArgumentError(
        "KVM_IOEVENTFD: the notifier is a pipe, not an eventfd");
  }
  kvm_ioeventfd arg = {};
  arg.datamatch = to_int(queue);
  arg.addr = options_.notify_gpa;
  arg.len = sizeof(uint32_t);
  arg.fd = kick.write_fd().get();
  arg.flags = flags | KVM_IOEVENTFD_FLAG_DATAMATCH;
  const int error = vm_->ioctl(KVM_IOEVENTFD, &arg);
  if (error == 0) return absl::OkStatus();
  return errno_status(error, "KVM_IOEVENTFD");
}

}  // namespace vhost
