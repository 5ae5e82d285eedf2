// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_context.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "hw/virtio/address_space_impl.h"
#include "hw/virtio/context_impl.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/executor.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

absl::Status slots_error(size_t entries, uint64_t slots) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "guest memory takes %d entries but the back-end has %d slots", entries,
      slots));
}

std::vector<MemorySection> list_sections(const SectionTree& tree) {
  std::vector<MemorySection> out;
  out.reserve(tree.size());
  for (const auto& [gpa, section] : tree) out.push_back(section);
  return out;
}

}  // namespace

VhostContext::Impl::Impl(EventLoop& event_loop, AddressSpace* memory,
                         Executor* work_executor)
    : loop(event_loop),
      executor(work_executor),
      log_hint(event_loop),
      memory_(memory) {
  // There is no device yet that could fail to follow.
  if (memory_ != nullptr) memory_->add_listener(this).IgnoreError();
}

VhostContext::Impl::~Impl() {
  if (memory_ != nullptr) memory_->remove_listener(this);
}

absl::Status VhostContext::Impl::add_user(MemoryUser* user) {
  MemoryView& table = view(user->memory_policy());
  if (!table.status().ok()) return table.status();
  if (table.size() > user->max_memory_slots())
    return slots_error(table.size(), user->max_memory_slots());
  users_.push_back({.user = user, .view = &table, .told = table.generation()});
  look_at_pinning();
  if (log.active()) admit_to_log(user);
  return absl::OkStatus();
}

void VhostContext::Impl::remove_user(MemoryUser* user) {
  for (User& entry : users_)
    if (entry.user == user) entry.user = nullptr;
  look_at_pinning();
  if (telling_) return;  // The list is being walked.
  std::erase_if(users_, [](const User& e) { return e.user == nullptr; });
  finish_if_settled();
}

MemoryView& VhostContext::Impl::view(const MemoryPolicy& policy) {
  for (const auto& known : views_)
    if (known->policy() == policy) return *known;
  views_.push_back(std::make_unique<MemoryView>(policy, known_sections()));
  return *views_.back();
}

std::vector<MemorySection> VhostContext::Impl::known_sections() const {
  if (memory_ == nullptr) return list_sections(own_sections_);
  const AddressSpace::Impl& space = memory_->impl();
  // Of the change that listeners are told of just now, a new table must have
  // what commit() will not bring it any more.
  if (space.telling && seen_ == space.transactions)
    return list_sections(space.sections);
  return space.committed();
}

absl::Status VhostContext::Impl::can_add(const MemorySection& section) const {
  const SectionTree& tree =
      memory_ == nullptr ? own_sections_ : memory_->impl().sections;
  if (const auto place = place_section(tree, section); !place.ok())
    return place.status();
  for (const auto& table : views_) {
    const absl::StatusOr<size_t> size = table->size_with(section);
    for (const User& entry : users_) {
      if (entry.view != table.get() || entry.user == nullptr) continue;
      if (!size.ok()) return annotate(size.status(), entry.user->name());
      const uint64_t slots = entry.user->max_memory_slots();
      if (*size > slots && *size > table->size())
        return annotate(slots_error(*size, slots), entry.user->name());
    }
  }
  return absl::OkStatus();
}

uint64_t VhostContext::Impl::max_slots() const {
  uint64_t slots = std::numeric_limits<uint64_t>::max();
  for (const User& entry : users_) {
    if (entry.user == nullptr) continue;
    slots = std::min(slots, entry.user->max_memory_slots());
  }
  return slots;
}

uint64_t VhostContext::Impl::free_slots() const {
  uint64_t slots = std::numeric_limits<uint64_t>::max();
  for (const User& entry : users_) {
    if (entry.user == nullptr) continue;
    const uint64_t all = entry.user->max_memory_slots();
    slots = std::min(slots, all - std::min<uint64_t>(all, entry.view->size()));
  }
  return slots;
}

size_t VhostContext::Impl::user_count() const {
  return static_cast<size_t>(
      std::count_if(users_.begin(), users_.end(),
                    [](const User& entry) { return entry.user != nullptr; }));
}

void VhostContext::Impl::region_add(const MemorySection& section) {
  // An AddressSpace's own lists are read at the commit.
  if (memory_ == nullptr) added_.push_back(section);
}

void VhostContext::Impl::region_del(const MemorySection& section) {
  if (memory_ == nullptr) removed_.push_back(section);
}

absl::Status VhostContext::Impl::commit() {
  if (telling_)
    return absl::FailedPreconditionError("commit: called from inside a commit");
  if (memory_ != nullptr) {
    const AddressSpace::Impl& space = memory_->impl();
    seen_ = space.transactions;
    return follow({.removed = space.removed,
                   .added = space.added,
                   .sections = space.sections});
  }
  absl::Status status = take_collected();
  status.Update(follow(
      {.removed = removed_, .added = added_, .sections = own_sections_}));
  removed_.clear();
  added_.clear();
  return status;
}

absl::Status VhostContext::Impl::take_collected() {
  absl::Status first;
  cancel_sections(removed_, added_);
  std::erase_if(removed_, [&](const MemorySection& section) {
    const auto found = own_sections_.find(section.gpa);
    if (found != own_sections_.end() && same_section(found->second, section)) {
      own_sections_.erase(found);
      return false;
    }
    first.Update(absl::InvalidArgumentError(absl::StrFormat(
        "region_del 0x%x: no such section is known", section.gpa)));
    return true;
  });
  std::erase_if(added_, [&](const MemorySection& section) {
    const absl::Status status = insert_section(own_sections_, section);
    first.Update(
        annotate(status, absl::StrFormat("region_add 0x%x", section.gpa)));
    return !status.ok();
  });
  return first;
}

absl::Status VhostContext::Impl::follow(const SectionChange& change) {
  if (change.removed.empty() && change.added.empty()) return absl::OkStatus();
  // What a table lacks afterwards is reported for each device that uses it.
  for (const auto& table : views_) table->update(change).IgnoreError();
  if (!log.active()) return tell_users();
  // ORDER: the log is large enough before any back-end hears of new memory.
  const absl::StatusOr<bool> another = fit_log();
  absl::Status status = tell_users();
  if (another.ok() && *another) status.Update(tell_log());
  status.Update(another.status());
  return status;
}

absl::Status VhostContext::Impl::tell_users() {
  telling_ = true;
  absl::Status first;
  // By index: users may join or leave meanwhile.
  const size_t count = users_.size();
  for (size_t i = 0; i < count; ++i) {
    if (users_[i].user == nullptr) continue;
    const uint64_t now = users_[i].view->generation();
    const bool changed = std::exchange(users_[i].told, now) != now;
    const User entry = users_[i];
    const absl::Status status = tell(entry, changed);
    if (status.ok() || !first.ok()) continue;
    const bool gone = users_[i].user == nullptr;
    first = gone ? status : with_device_name(status, entry.user->name());
  }
  telling_ = false;
  std::erase_if(users_, [](const User& e) { return e.user == nullptr; });
  memory_settling_.first_error.Update(first);
  finish_if_settled();
  return first;
}

absl::Status VhostContext::Impl::tell(const User& entry, bool changed) {
  absl::Status status = entry.view->status();
  const uint64_t slots = entry.user->max_memory_slots();
  if (status.ok() && entry.view->size() > slots)
    status = slots_error(entry.view->size(), slots);
  if (changed) status.Update(entry.user->memory_committed());
  return status;
}

VhostContext::VhostContext(EventLoop& loop, AddressSpace& memory,
                           Executor* executor)
    : impl_(std::make_unique<Impl>(loop, &memory, executor)) {}

VhostContext::VhostContext(EventLoop& loop, Executor* executor)
    : impl_(std::make_unique<Impl>(loop, nullptr, executor)) {}

VhostContext::~VhostContext() = default;

EventLoop& VhostContext::loop() const { return impl_->loop; }
Executor* VhostContext::executor() const { return impl_->executor; }
MemoryListener& VhostContext::listener() { return *impl_; }

void VhostContext::when_memory_settled(Completion done) {
  impl_->when_settled(Impl::Topic::kMemory, std::move(done));
}

absl::Status VhostContext::run_until_memory_settled(Duration timeout) {
  return impl_->run_until_settled(Impl::Topic::kMemory, timeout);
}

absl::Status VhostContext::can_add(const MemorySection& section) const {
  return impl_->can_add(section);
}

uint64_t VhostContext::max_memory_slots() const { return impl_->max_slots(); }
uint64_t VhostContext::free_memory_slots() const { return impl_->free_slots(); }

std::shared_ptr<const MemorySnapshot> VhostContext::snapshot(
    const MemoryPolicy& policy) {
  return impl_->view(policy).snapshot();
}

size_t VhostContext::device_count() const { return impl_->user_count(); }

}  // namespace vhost
