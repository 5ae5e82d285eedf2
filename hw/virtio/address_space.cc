// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "hw/virtio/address_space_impl.h"
#include "hw/virtio/net_change.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

int flags(const MemorySection& section) {
  return (section.ram ? 1 : 0) | (section.readonly ? 2 : 0) |
         (section.unmergeable ? 4 : 0) | (section.write_tracked ? 8 : 0);
}

bool section_less(const MemorySection& a, const MemorySection& b) {
  if (a.gpa != b.gpa) return a.gpa < b.gpa;
  if (a.size != b.size) return a.size < b.size;
  if (a.region != b.region)
    return std::less<>()(a.region.get(), b.region.get());
  if (a.offset_in_region != b.offset_in_region)
    return a.offset_in_region < b.offset_in_region;
  return flags(a) < flags(b);
}

uint64_t last_address(const MemorySection& section) {
  return section.gpa + (section.size - 1);
}

absl::Status check_section(const MemorySection& section) {
  if (section.region == nullptr)
    return absl::InvalidArgumentError("section has no region");
  if (section.size == 0) return absl::InvalidArgumentError("section is empty");
  if (section.size - 1 > UINT64_MAX - section.gpa)
    return absl::InvalidArgumentError("section wraps past 2^64");
  const uint64_t region_size = section.region->size();
  if (section.offset_in_region > region_size ||
      section.size > region_size - section.offset_in_region) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "section reaches outside region %s of %d bytes: %d bytes at %d",
        section.region->name(), region_size, section.size,
        section.offset_in_region));
  }
  return absl::OkStatus();
}

absl::Status overlap_error(const MemorySection& other) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "section overlaps [0x%x, 0x%x]", other.gpa, last_address(other)));
}

absl::Status called_from_listener() {
  return absl::FailedPreconditionError("called from a memory listener");
}

}  // namespace

bool same_section(const MemorySection& a, const MemorySection& b) {
  return a.gpa == b.gpa && a.size == b.size && a.region == b.region &&
         a.offset_in_region == b.offset_in_region && flags(a) == flags(b);
}

absl::StatusOr<SectionTree::const_iterator> place_section(
    const SectionTree& tree, const MemorySection& section) {
  VHOST_RETURN_IF_ERROR(check_section(section));
  const auto next = tree.lower_bound(section.gpa);
  if (next != tree.end() && next->first <= last_address(section))
    return overlap_error(next->second);
  if (next != tree.begin()) {
    const MemorySection& before = std::prev(next)->second;
    if (last_address(before) >= section.gpa) return overlap_error(before);
  }
  return next;
}

absl::Status insert_section(SectionTree& tree, const MemorySection& section) {
  const auto next = place_section(tree, section);
  if (!next.ok()) return next.status();
  tree.emplace_hint(*next, section.gpa, section);
  return absl::OkStatus();
}

void cancel_sections(std::vector<MemorySection>& removed,
                     std::vector<MemorySection>& added) {
  cancel_common(removed, added, section_less);
}

std::vector<MemorySection> AddressSpace::Impl::committed() const {
  SectionTree before = sections;
  std::vector<MemorySection> was_removed = removed;
  std::vector<MemorySection> was_added = added;
  cancel_sections(was_removed, was_added);
  for (const MemorySection& section : was_added) before.erase(section.gpa);
  for (MemorySection& section : was_removed)
    before.emplace(section.gpa, std::move(section));

  std::vector<MemorySection> out;
  out.reserve(before.size());
  for (auto& [gpa, section] : before) out.push_back(std::move(section));
  return out;
}

absl::Status AddressSpace::Impl::end_transaction() {
  cancel_sections(removed, added);
  absl::Status status;
  if (!removed.empty() || !added.empty()) status = tell_listeners();
  removed.clear();
  added.clear();
  return status;
}

absl::Status AddressSpace::Impl::tell_listeners() {
  telling = true;
  ++transactions;
  absl::Status first;
  // By index: a listener may add or remove listeners; one that is added while
  // we are here was brought up to date by add_listener.
  const size_t count = listeners.size();
  for (size_t i = 0; i < count; ++i) {
    if (listeners[i] != nullptr) listeners[i]->begin();
    for (const MemorySection& section : removed)
      if (listeners[i] != nullptr) listeners[i]->region_del(section);
    for (const MemorySection& section : added)
      if (listeners[i] != nullptr) listeners[i]->region_add(section);
    if (listeners[i] != nullptr) first.Update(listeners[i]->commit());
  }
  telling = false;
  std::erase(listeners, nullptr);
  return first;
}

AddressSpace::AddressSpace() : impl_(std::make_unique<Impl>()) {}
AddressSpace::~AddressSpace() = default;

void AddressSpace::begin() {
  if (!impl_->telling) ++impl_->depth;
}

absl::Status AddressSpace::add(MemorySection section) {
  if (impl_->telling) return annotate(called_from_listener(), "add");
  const absl::Status status = insert_section(impl_->sections, section);
  if (!status.ok())
    return annotate(status, absl::StrFormat("add 0x%x", section.gpa));
  impl_->added.push_back(std::move(section));
  return impl_->depth == 0 ? impl_->end_transaction() : absl::OkStatus();
}

absl::Status AddressSpace::remove(uint64_t gpa) {
  if (impl_->telling) return annotate(called_from_listener(), "remove");
  const auto found = impl_->sections.find(gpa);
  if (found == impl_->sections.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("remove 0x%x: no section begins there", gpa));
  }
  impl_->removed.push_back(std::move(found->second));
  impl_->sections.erase(found);
  return impl_->depth == 0 ? impl_->end_transaction() : absl::OkStatus();
}

absl::Status AddressSpace::commit() {
  if (impl_->telling) return annotate(called_from_listener(), "commit");
  if (impl_->depth == 0)
    return absl::FailedPreconditionError("commit: no transaction is open");
  return --impl_->depth == 0 ? impl_->end_transaction() : absl::OkStatus();
}

std::byte* AddressSpace::translate(uint64_t gpa, uint64_t size) const {
  const MemorySection* section = find(gpa);
  if (section == nullptr) return nullptr;
  const uint64_t offset = gpa - section->gpa;
  if (size > section->size - offset) return nullptr;
  return section->host() + offset;
}

const MemorySection* AddressSpace::find(uint64_t gpa) const {
  const auto after = impl_->sections.upper_bound(gpa);
  if (after == impl_->sections.begin()) return nullptr;
  const MemorySection& section = std::prev(after)->second;
  return gpa <= last_address(section) ? &section : nullptr;
}

std::vector<MemorySection> AddressSpace::sections() const {
  std::vector<MemorySection> out;
  out.reserve(impl_->sections.size());
  for (const auto& [gpa, section] : impl_->sections) out.push_back(section);
  return out;
}

absl::Status AddressSpace::add_listener(MemoryListener* listener) {
  impl_->listeners.push_back(listener);
  // While listeners are told, the lists of the transaction are done with.
  const std::vector<MemorySection> known =
      impl_->telling ? sections() : impl_->committed();
  listener->begin();
  for (const MemorySection& section : known) listener->region_add(section);
  return listener->commit();
}

void AddressSpace::remove_listener(MemoryListener* listener) {
  auto& listeners = impl_->listeners;
  // The list is being walked while listeners are told.
  if (impl_->telling)
    std::replace(listeners.begin(), listeners.end(), listener,
                 static_cast<MemoryListener*>(nullptr));
  else
    std::erase(listeners, listener);
}

}  // namespace vhost
