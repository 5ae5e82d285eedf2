// SPDX-License-Identifier: Apache-2.0
// Behind an IOMMU: what of a ring's translations the back-end has, and what it
// is to forget.
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

// A driver that did not accept ACCESS_PLATFORM uses guest physical addresses,
// whatever the bus could do.
bool VhostDev::Impl::behind_iommu() const {
  return acked_.has(kFeatureAccessPlatform) && device_.has_iommu();
}

void VhostDev::Impl::invalidate_iotlb(uint64_t iova, uint64_t size,
                                      Completion done) {
  Operation operation = {.name = "invalidate iotlb", .done = std::move(done)};
  operation.collected = running_;
  if (size == 0 || iova + (size - 1) < iova) {
    complete(std::move(operation),
             absl::InvalidArgumentError(
                 absl::StrCat(size, " bytes at iova 0x", absl::Hex(iova))));
    return;
  }
  if (services_.answering()) {
    complete(std::move(operation),
             absl::FailedPreconditionError(
                 "called while a request of the back-end is answered"));
    return;
  }
  if (moving_state() && iotlb_told_) {
    drop_translations(iova, size);
    operation.serial = ++serials_;
    held_invalidations_.push_back({iova, size, std::move(operation)});
    return;
  }
  forget_translation(iova, size, std::move(operation));
}

void VhostDev::Impl::forget_translation(uint64_t iova, uint64_t size,
                                        Operation operation) {
  // What a start under way has not told yet it asks for just before.
  if (!iotlb_told_) {
    complete(std::move(operation), absl::OkStatus());
    return;
  }
  drop_translations(iova, size);
  UpdateIotlb forget;
  forget.entry = {.iova = iova, .size = size};
  submit_beside(std::move(forget), std::move(operation));
}

// Nothing is read through a translation that does not hold any more.
void VhostDev::Impl::drop_translations(uint64_t iova, uint64_t size) {
  const uint64_t last = iova + (size - 1);
  const auto gone = [iova, last](const UpdateIotlb& known) {
    const uint64_t end = known.entry.iova + (known.entry.size - 1);
    return known.entry.iova <= last && iova <= end;
  };
  for (Queue& queue : queues_) std::erase_if(queue.iotlb, gone);
  for (Planned& planned : attempt_.queues) std::erase_if(planned.iotlb, gone);
}

void VhostDev::Impl::submit_beside(Verb verb, Operation operation) {
  const uint64_t serial = ++serials_;
  operation.serial = serial;
  beside_.push_back(
      {std::move(operation), Pending(), state() == DeviceState::kBroken});
  Pending pending = ops_->submit(std::move(verb), after(options_.start_timeout),
                                 [this, serial](const BatchResult& result) {
                                   beside_ended(serial, result);
                                 });
  for (BesideOperation& entry : beside_) {
    if (entry.operation.serial == serial) entry.pending = std::move(pending);
  }
}

void VhostDev::Impl::beside_ended(uint64_t serial, const BatchResult& result) {
  const std::shared_ptr<Impl> self = shared_from_this();
  for (auto entry = beside_.begin(); entry != beside_.end(); ++entry) {
    if (entry->operation.serial != serial) continue;
    Operation operation = std::move(entry->operation);
    const bool closed = entry->closed || state() == DeviceState::kBroken;
    beside_.erase(entry);
    if (dead_) return;
    if (closed && result.unknown.empty()) {
      // Its answer came behind the close, and it has nothing any more.
      complete(std::move(operation), absl::OkStatus());
      return;
    }
    const absl::Status status = judge(result);
    // It may use what the guest took away.
    if (!status.ok()) become_broken(annotate(status, operation.name));
    complete(std::move(operation), status);
    return;
  }
}

}  // namespace vhost
