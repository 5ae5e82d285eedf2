// SPDX-License-Identifier: Apache-2.0
// Following the guest's memory while a back-end has a table of it.
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/virtio/ring_layout.h"
#include "hw/virtio/ring_translation.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr absl::string_view kMemoryUpdate = "memory update";

}  // namespace

MemoryPolicy VhostDev::Impl::memory_policy() const {
  return ops_->traits().memory_policy;
}

uint64_t VhostDev::Impl::max_memory_slots() const {
  return ops_->traits().max_memory_slots;
}

MemoryView& VhostDev::Impl::view() {
  return context_.impl().view(memory_policy());
}

// Whether there is a table to keep up to date.
bool VhostDev::Impl::backend_has_memory() const {
  using enum DeviceState;
  switch (state()) {
    case kCreated:
    case kBroken:
      return false;
    case kReady:
      return applied_.slots_used() > 0;
    case kStarting:
    case kRunning:
    case kStopping:
      return true;
  }
  return false;
}

absl::Status VhostDev::Impl::memory_committed() {
  if (dead_ || !backend_has_memory()) return absl::OkStatus();
  if (attempting()) {
    // What it tells is old already.
    end_attempt_soon();
    return absl::OkStatus();
  }
  const absl::Status in_place = check_rings();
  if (!in_place.ok()) {
    become_broken(in_place);
    return annotate(in_place, options_.name);
  }
  absl::Status fits;
  if (view().size() > traits().max_memory_slots) {
    fits = absl::ResourceExhaustedError(absl::StrCat(
        options_.name, ": ", view().size(), " memory sections for ",
        traits().max_memory_slots, " slots"));
    events_.memory_refused(fits);
  }
  if (current_.has_value()) {
    memory_changed_ = true;  // Applied when the sequence ends.
    return fits;
  }
  if (inside_backend()) {
    memory_changed_ = true;
    defer([](Impl& self) { self.go_on(); });
    return fits;
  }
  launch_memory_update();
  if (fits.ok() && memory_settled()) return memory_status_;
  return fits;
}

bool VhostDev::Impl::memory_settled() const {
  if (attempting()) return true;  // It begins anew with every change.
  return !memory_changed_ && !(current_.has_value() && current_->internal &&
                               !current_->about_log && !current_->kicks);
}

void VhostDev::Impl::launch_memory_update() {
  using enum DeviceState;
  memory_changed_ = false;
  memory_status_ = absl::OkStatus();
  if (!backend_has_memory()) {
    context_.impl().user_settled(this, memory_status_);
    return;
  }
  Operation update = {.name = kMemoryUpdate,
                      .states = {kReady, kRunning},
                      .make = [this] { return memory_task(); },
                      .internal = true};
  update.serial = ++serials_;
  launch(std::move(update));
}

// A back-end that did not answer for a change may use what was removed: whoever
// waits for it must not hear that all is well.
void VhostDev::Impl::abandon_memory_update(const absl::Status& why) {
  if (memory_settled()) return;
  context_.impl().user_settled(
      this, annotate(annotate(why, kMemoryUpdate), options_.name));
}

// A started ring is where its back-end was told, for as long as it runs.
absl::Status VhostDev::Impl::check_rings() {
  for (const Queue& queue : queues_) {
    if (!queue.started) continue;
    absl::Status in_place = check_ring_in_place(queue.ring.addr, view());
    in_place.Update(check_pieces_in_place(queue.iotlb, view()));
    if (in_place.ok()) continue;
    return annotate(in_place, absl::StrCat("vq ", to_int(queue.index)));
  }
  return absl::OkStatus();
}

std::vector<uint64_t> VhostDev::Impl::ring_addresses() const {
  std::vector<uint64_t> out;
  const auto note = [&out](const VringAddresses& ring,
                           const std::vector<UpdateIotlb>& iotlb) {
    for (const UpdateIotlb& piece : iotlb) out.push_back(piece.entry.gpa);
    for (const RingPart* part : {&ring.desc, &ring.avail, &ring.used}) {
      if (part->user != 0) out.push_back(part->gpa);
    }
  };
  for (const Queue& queue : queues_) {
    if (queue.started) note(queue.ring.addr, queue.iotlb);
  }
  for (const Planned& planned : attempt_.queues) {
    note(planned.setup.addr, planned.iotlb);
  }
  return out;
}

// What to tell the back-end; where it has too few slots, not all there is.
MemoryDiff VhostDev::Impl::memory_diff() {
  const uint64_t slots = traits().max_memory_slots;
  if (view().size() <= slots) return applied_.diff_to(view(), slots);
  return applied_.diff_to(view(), slots, ring_addresses());
}

// A ring is in the wanted table (check_rings); but what was told may be less.
absl::Status VhostDev::Impl::check_rings_told(
    const MemorySnapshot& table) const {
  for (const Queue& queue : queues_) {
    if (!queue.started) continue;
    absl::Status told = check_ring_in_table(queue.ring.addr, table);
    told.Update(check_pieces_in_table(queue.iotlb, table));
    if (told.ok()) continue;
    return annotate(told, absl::StrCat("vq ", to_int(queue.index)));
  }
  return absl::OkStatus();
}

Task VhostDev::Impl::memory_task() {
  absl::Status status = check_rings();
  if (!status.ok()) {
    become_broken(status);
    co_return status;
  }
  // ORDER: a back-end whose log does not reach new memory may write it at once
  // and mark what lies behind the log.
  Task room = make_room_in_log();
  const absl::Status has_room = co_await room;
  if (state() == DeviceState::kBroken) co_return has_room;

  const MemoryDiff diff = memory_diff();
  if (diff.empty()) co_return status;
  // ORDER: before the back-end unmaps what a ring lies in.
  if (view().size() > traits().max_memory_slots) {
    status = check_rings_told(*diff.after);
  }
  if (!status.ok()) {
    become_broken(status);
    co_return status;
  }
  Verb update = UpdateMemory{.diff = diff};
  BatchResult updated = co_await Submit(runner_, std::move(update),
                                        after(options_.start_timeout));
  status = judge(updated);
  if (state() == DeviceState::kBroken) co_return status;
  applied_.apply(diff, updated);
  if (logging()) let_go_of_logs();  // The one before it grew.
  if (status.ok()) co_return status;

  for (const Step& step : updated.refused) {
    // Memory that must not be used any more still is, or no table is right.
    if (step.kind != StepKind::kMemoryAdd) {
      become_broken(status);
      co_return status;
    }
  }
  const MemoryDiff back = applied_.rollback(diff);
  if (!back.empty()) {
    Verb undo = UpdateMemory{.diff = back};
    BatchResult undone = co_await Submit(runner_, std::move(undo),
                                         after(options_.start_timeout));
    absl::Status restored = judge(undone);
    if (state() == DeviceState::kBroken) co_return restored;
    applied_.apply(back, undone);
    if (restored.ok()) restored = check_rings_told(*back.after);
    if (!restored.ok()) {
      become_broken(annotate(restored, "roll-back"));
      co_return restored;
    }
  }
  events_.memory_refused(annotate(status, options_.name));
  co_return status;
}

}  // namespace vhost
