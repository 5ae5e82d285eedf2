// SPDX-License-Identifier: Apache-2.0
#include "hw/virtio/memory_table.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/address_space_impl.h"
#include "vhostdev/memory.h"

namespace vhost {
namespace {

constexpr uint64_t kIovaPage = 4096;

uint64_t last_address(const MemorySection& section) {
  return section.gpa + (section.size - 1);
}

uint64_t last_address(uint64_t gpa, const MemoryRun& run) {
  return gpa + (run.size - 1);
}

absl::Status with_section(const MemorySection& section,
                          absl::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrFormat("section [0x%x, 0x%x] of region %s %s", section.gpa,
                      last_address(section), section.region->name(), problem));
}

// Whether the two are one piece of memory as far as they touch.
bool continues(const MemorySection& section, uint64_t gpa, uint64_t offset,
               const MemoryRun& run, uint64_t run_gpa) {
  return section.region == run.region && section.readonly == run.readonly &&
         offset - gpa == run.offset - run_gpa;
}

// Whether a section of the transaction, not one that was there before.
bool is_added(const MemorySection& section, const SectionChange& change) {
  const auto found = std::lower_bound(
      change.added.begin(), change.added.end(), section.gpa,
      [](const MemorySection& a, uint64_t gpa) { return a.gpa < gpa; });
  return found != change.added.end() && found->gpa == section.gpa;
}

}  // namespace

MemoryTableEntry make_entry(uint64_t gpa, const MemoryRun& run) {
  return {.gpa = gpa,
          .size = run.size,
          .user = reinterpret_cast<uintptr_t>(run.region->host()) + run.offset,
          .fd = run.region->fd(),
          .mmap_offset = run.region->fd_offset() + run.offset,
          .readonly = run.readonly,
          .region = run.region};
}

bool TableEditor::accepts(const MemorySection& section) const {
  return section.ram && !section.write_tracked &&
         (!section.readonly || policy_.include_readonly) &&
         (!policy_.fd_only || section.region->fd().valid());
}

// Out to the pages of the backing: what a back-end can map.  Never outside the
// region.
absl::StatusOr<TableEditor::Extent> TableEditor::align_out(
    const MemorySection& section) const {
  const MemoryRegion& region = *section.region;
  const uint64_t page = std::max<uint64_t>(region.page_size(), 1);
  const uint64_t host = reinterpret_cast<uintptr_t>(section.host());
  const uint64_t down = std::min(host % page, section.offset_in_region);
  if (down > section.gpa)
    return with_section(section, "would begin below 0 after alignment");

  const uint64_t past_page = (host + section.size) % page;
  const uint64_t up =
      std::min(past_page == 0 ? 0 : page - past_page,
               region.size() - (section.offset_in_region + section.size));
  if (up > UINT64_MAX - last_address(section))
    return with_section(section, "would end past 2^64 after alignment");

  return Extent{.gpa = section.gpa - down,
                .size = section.size + down + up,
                .offset = section.offset_in_region - down};
}

absl::StatusOr<std::optional<TableEditor::Extent>> TableEditor::align(
    const MemorySection& section) const {
  Extent extent{.gpa = section.gpa,
                .size = section.size,
                .offset = section.offset_in_region};
  if (policy_.align_host) {
    absl::StatusOr<Extent> aligned = align_out(section);
    if (!aligned.ok()) return aligned.status();
    extent = *aligned;
  }
  if (policy_.align_iova) {
    const uint64_t host =
        reinterpret_cast<uintptr_t>(section.region->host()) + extent.offset;
    if ((host - extent.gpa) % kIovaPage != 0)
      return with_section(section, "lies differently in its host page");
    const uint64_t up = (kIovaPage - extent.gpa % kIovaPage) % kIovaPage;
    if (up >= extent.size) return std::nullopt;
    const uint64_t size = (extent.size - up) / kIovaPage * kIovaPage;
    if (size == 0) return std::nullopt;
    extent = {extent.gpa + up, size, extent.offset + up};
  }
  return extent;
}

bool TableEditor::stands_alone(const Extent& extent,
                               RunTree::const_iterator above) const {
  if (above != runs_.end() && above->first - extent.gpa <= extent.size)
    return false;
  if (above == runs_.begin()) return true;
  const auto below = std::prev(above);
  return last_address(below->first, below->second) < extent.gpa - 1;
}

absl::StatusOr<TableEditor::Place> TableEditor::place(
    const MemorySection& section, const Extent& extent) const {
  auto run = runs_.lower_bound(extent.gpa);
  Place place{.extent = extent, .joined = {}};
  if (run != runs_.begin()) {
    const auto before = std::prev(run);
    if (last_address(before->first, before->second) >= extent.gpa - 1)
      run = before;
  }
  for (; run != runs_.end(); ++run) {
    if (run->first > extent.last() && run->first - 1 > extent.last()) break;
    const auto& [gpa, other] = *run;
    const uint64_t last = last_address(gpa, other);
    const bool join = policy_.merge && !section.unmergeable &&
                      !other.unmergeable &&
                      continues(section, extent.gpa, extent.offset, other, gpa);
    if (join) {
      const uint64_t end = std::max(place.extent.last(), last);
      if (gpa < place.extent.gpa) {
        place.extent.offset = other.offset;
        place.extent.gpa = gpa;
      }
      place.extent.size = end - place.extent.gpa + 1;
      place.joined.push_back(gpa);
    } else if (gpa <= extent.last() && last >= extent.gpa) {
      return with_section(
          section,
          absl::StrFormat("overlaps [0x%x, 0x%x] of region %s after alignment",
                          gpa, last, other.region->name()));
    }
  }
  return place;
}

absl::StatusOr<size_t> TableEditor::size_with(
    const MemorySection& section) const {
  if (section.ram && policy_.fd_only && !section.region->fd().valid())
    return with_section(section, "has no descriptor to share");
  if (!accepts(section)) return runs_.size();
  const auto extent = align(section);
  if (!extent.ok()) return extent.status();
  if (!extent->has_value()) return runs_.size();
  const auto found = place(section, **extent);
  if (!found.ok()) return found.status();
  return runs_.size() + 1 - found->joined.size();
}

absl::Status TableEditor::add(const MemorySection& section) {
  if (!accepts(section)) return absl::OkStatus();
  const auto extent = align(section);
  if (!extent.ok()) return extent.status();
  if (!extent->has_value()) return absl::OkStatus();
  MemoryRun run{.region = section.region,
                .readonly = section.readonly,
                .unmergeable = section.unmergeable};
  const auto above = runs_.lower_bound((*extent)->gpa);
  if (stands_alone(**extent, above)) {  // As most do.
    insert(above, **extent, std::move(run));
    return absl::OkStatus();
  }
  const auto found = place(section, **extent);
  if (!found.ok()) return found.status();

  if (found->joined.size() == 1 &&
      runs_.find(found->joined[0])->second.size == found->extent.size) {
    return absl::OkStatus();  // All of it is there already, as padding.
  }
  for (const uint64_t gpa : found->joined) erase(runs_.find(gpa));
  insert(runs_.lower_bound(found->extent.gpa), found->extent, std::move(run));
  return absl::OkStatus();
}

std::optional<TableEditor::Extent> TableEditor::extent_of_survivor(
    const MemorySection& section, const SectionChange& change) const {
  if (!accepts(section) || is_added(section, change)) return std::nullopt;
  const auto extent = align(section);
  return extent.ok() ? *extent : std::nullopt;
}

std::optional<TableEditor::Extent> TableEditor::survivor_below(
    const MemorySection& removed, const Extent& around,
    const SectionChange& change) const {
  auto at = change.sections.lower_bound(removed.gpa);
  while (at != change.sections.begin()) {
    --at;
    if (last_address(at->second) < around.gpa) break;
    const auto extent = extent_of_survivor(at->second, change);
    if (!extent.has_value()) continue;
    if (extent->gpa >= around.gpa) return extent;
    break;
  }
  return std::nullopt;
}

std::optional<TableEditor::Extent> TableEditor::survivor_above(
    const MemorySection& removed, const Extent& around,
    const SectionChange& change) const {
  auto at = change.sections.upper_bound(last_address(removed));
  for (; at != change.sections.end(); ++at) {
    if (at->first > around.last()) break;
    const auto extent = extent_of_survivor(at->second, change);
    if (!extent.has_value()) continue;
    if (extent->last() <= around.last()) return extent;
    break;
  }
  return std::nullopt;
}

void TableEditor::remove(const MemorySection& section,
                         const SectionChange& change) {
  if (!accepts(section)) return;
  const auto extent = align(section);
  if (!extent.ok() || !extent->has_value()) return;
  auto run = runs_.upper_bound((*extent)->gpa);
  if (run == runs_.begin()) return;
  --run;
  const Extent around{run->first, run->second.size, run->second.offset};
  if (around.last() < (*extent)->gpa) return;  // Cut off with a neighbour.

  // Nobody else can be in an entry that is exactly this section.
  if (around.gpa == section.gpa && around.size == section.size)
    return static_cast<void>(erase(run));

  const auto below = survivor_below(section, around, change);
  const auto above = survivor_above(section, around, change);
  if (below && above && below->last() >= above->gpa - 1) return;
  if (below && !above && below->last() == around.last()) return;
  if (above && !below && above->gpa == around.gpa) return;
  const MemoryRun like = run->second;
  const auto next = erase(run);
  if (above) {
    const uint64_t size = around.last() - above->gpa + 1;
    insert(next, {above->gpa, size, above->offset}, like);
  }
  if (below) {
    const uint64_t size = below->last() - around.gpa + 1;
    insert(runs_.lower_bound(around.gpa), {around.gpa, size, around.offset},
           like);
  }
}

RunTree::iterator TableEditor::erase(RunTree::iterator run) {
  changes_.removed.push_back(make_entry(run->first, run->second));
  return runs_.erase(run);
}

void TableEditor::insert(RunTree::iterator next, const Extent& extent,
                         MemoryRun run) {
  run.size = extent.size;
  run.offset = extent.offset;
  changes_.added.push_back(make_entry(extent.gpa, run));
  runs_.emplace_hint(next, extent.gpa, std::move(run));
}

bool TableEditor::edit(const SectionChange& change) {
  for (const MemorySection& section : change.removed) remove(section, change);
  for (const MemorySection& section : change.added)
    if (!add(section).ok()) return false;
  return true;
}

absl::Status TableEditor::rebuild(const SectionTree& sections) {
  RunTree fresh;
  MemoryDiff made;
  TableEditor editor(policy_, fresh, made);
  absl::Status first;
  for (const auto& [gpa, section] : sections) first.Update(editor.add(section));

  for (const auto& [gpa, run] : runs_)
    changes_.removed.push_back(make_entry(gpa, run));
  for (const auto& [gpa, run] : fresh)
    changes_.added.push_back(make_entry(gpa, run));
  runs_ = std::move(fresh);
  return first;
}

}  // namespace vhost
