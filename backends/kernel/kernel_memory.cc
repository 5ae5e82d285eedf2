// SPDX-License-Identifier: Apache-2.0
// The memory table and the dirty log.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/kernel/memory_table.h"
#include "backends/kernel/vhost_kernel_ops.h"
#include "vhostdev/status.h"

namespace vhost {

void VhostKernelOps::run(const UpdateMemory& verb, BatchSteps& steps) {
  steps.add({.kind = StepKind::kMemoryTable},
            set_memory(verb.diff, MayBeEmpty::kYes));
}

absl::Status VhostKernelOps::set_memory(const MemoryDiff& diff,
                                        MayBeEmpty may_be_empty) {
  if (diff.after == nullptr) {
    return absl::InvalidArgumentError("memory table: not given");
  }
  const std::span<const MemoryTableEntry> entries = diff.after->entries();
  if (entries.empty() && may_be_empty == MayBeEmpty::kNo) {
    return absl::InvalidArgumentError(
        absl::StrCat(layout_.label, ": rings, but no memory at all"));
  }
  if (memory_ != nullptr && diff.empty()) {
    memory_ = diff.after;
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(
      annotate(check_memory_table(entries, max_regions_), "memory table"));
  VHOST_RETURN_IF_ERROR(check_rings_stay(entries));
  std::vector<std::byte> table = encode_memory_table(entries);
  const absl::Status told = fan_out(
      [&](KernelDevice& device) { return device.set_memory_table(table); },
      [&](KernelDevice& device) { return device.set_memory_table(table_); });
  if (told.ok()) {
    table_ = std::move(table);
    memory_ = diff.after;
  }
  // A ring that was looked at in between waits for its next kick.
  kick_started();
  VHOST_RETURN_IF_ERROR(told);
  // ORDER: before whoever removed the memory is told that it is done.
  return iommu_ && !diff.removed.empty() ? forget_translations()
                                         : absl::OkStatus();
}

// The kernel would take a table without a live ring, and the ring would be dead
// from then on.
absl::Status VhostKernelOps::check_rings_stay(
    std::span<const MemoryTableEntry> table) const {
  const auto part_stays = [&](const RingPart& part) {
    if (!iommu_) return table_holds(table, part.user, part.size);
    for (const auto& [iova, update] : ring_translations_) {
      // What both have, first and last included.
      const uint64_t first = std::max(iova, part.gpa);
      const uint64_t last =
          std::min(iova + (update.entry.size - 1), part.gpa + (part.size - 1));
      if (first > last) continue;
      const uint64_t user = update.user + (first - iova);
      if (!table_holds(table, user, last - first + 1)) return false;
    }
    return true;
  };
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (!queues_[i].started) continue;
    const VringAddresses& addr = queues_[i].addr;
    const std::array<const RingPart*, 3> parts = {&addr.desc, &addr.avail,
                                                  &addr.used};
    for (const RingPart* part : parts) {
      if (part->size == 0 || part_stays(*part)) continue;
      return absl::FailedPreconditionError(
          absl::StrCat(layout_.label, ": memory table without the ring of vq ",
                       i, ", which runs"));
    }
  }
  return absl::OkStatus();
}

void VhostKernelOps::kick_started() {
  const uint64_t one = 1;
  for (const Queue& queue : queues_) {
    if (!queue.started || !queue.kick.valid()) continue;
    // One that cannot be written to is signalled already.
    if (::write(queue.kick.get(), &one, sizeof(one)) < 0) continue;
  }
}

void VhostKernelOps::run(const SetLog& verb, BatchSteps& steps) {
  steps.add({.kind = StepKind::kLog}, set_log(verb.log));
}

absl::Status VhostKernelOps::set_log(const LogArea& log) {
  const uint64_t base =
      log.size == 0 ? 0 : reinterpret_cast<uintptr_t>(log.base);
  const bool has_event = log.size != 0 && log.event.valid();
  UniqueFd event;
  if (has_event) {
    event = UniqueFd(::fcntl(log.event.get(), F_DUPFD_CLOEXEC, 0));
    if (!event.valid()) return errno_status(errno, "notifier of the log");
  }
  VHOST_RETURN_IF_ERROR(fan_out(
      [&](KernelDevice& device) { return device.set_log_base(base); },
      [&](KernelDevice& device) { return device.set_log_base(log_base_); }));
  const uint64_t base_before = std::exchange(log_base_, base);
  if (!has_event && !log_event_.valid()) return absl::OkStatus();
  const absl::Status told = fan_out(
      [&](KernelDevice& device) { return device.set_log_fd(event.get()); },
      [&](KernelDevice& device) {
        return device.set_log_fd(log_event_.get());
      });
  if (told.ok()) {
    log_event_ = std::move(event);
    return told;
  }
  // Nothing of the step remains.
  const auto back = [&](KernelDevice& device) {
    return device.set_log_base(base_before);
  };
  const absl::Status undone = fan_out(back, back);
  log_base_ = base_before;
  if (undone.ok()) return told;
  return absl::UnavailableError(
      absl::StrCat(told.message(), "; roll-back: ", undone.message()));
}

}  // namespace vhost
