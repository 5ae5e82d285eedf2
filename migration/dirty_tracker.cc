// SPDX-License-Identifier: Apache-2.0
#include "migration/dirty_tracker.h"

#include <bit>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "vhostdev/memory.h"

namespace vhost {
namespace {

bool same(const MigrationRam& a, const MigrationRam& b) {
  return a.name == b.name && a.gpa == b.gpa && a.size == b.size &&
         a.region == b.region && a.offset_in_region == b.offset_in_region;
}

}  // namespace

// Passes pages on to the blocks, and counts them.
class DirtyTracker::Sink final : public DirtySink {
 public:
  explicit Sink(DirtyTracker& tracker) : tracker_(tracker) {}

  void dirty(uint64_t first_page, uint64_t bits) override {
    pages_ += static_cast<uint64_t>(std::popcount(bits));
    // A word may hold the end of one block and the beginning of another.
    const uint64_t last = first_page + (kLogWordPages - 1);
    auto next = tracker_.by_end_.upper_bound(first_page);
    for (; next != tracker_.by_end_.end(); ++next) {
      DirtyBitmap& bitmap = *next->second;
      bitmap.add(first_page, bits);
      if (next->first > last) break;
    }
  }

  uint64_t pages() const { return pages_; }

 private:
  DirtyTracker& tracker_;
  uint64_t pages_ = 0;
};

DirtyTracker::~DirtyTracker() { disable(); }

void DirtyTracker::enable(std::vector<DirtyProvider*> providers,
                          Completion done) {
  const auto fail = [this, &done](absl::Status why) {
    context_.loop().post([done = std::move(done), why = std::move(why),
                          alive = std::weak_ptr<char>(alive_)]() mutable {
      if (!alive.expired()) done(std::move(why));
    });
  };
  if (context_.log().active()) {
    return fail(absl::FailedPreconditionError("the dirty log is in use"));
  }
  sources_.clear();
  for (DirtyProvider* provider : providers) sources_.push_back({provider});
  log_pages_ = 0;
  logging_ = true;
  const absl::Status told = context_.listener().log_global_start();
  if (!told.ok()) return fail(told);
  // ORDER: back-ends log before the VMM does, and both before the first page
  // is read.
  context_.when_log_settled([this, alive = std::weak_ptr<char>(alive_),
                             done = std::move(done)](absl::Status s) mutable {
    if (alive.expired() || !logging_) return;
    if (s.ok()) s = enable_providers();
    done(std::move(s));
  });
}

absl::Status DirtyTracker::enable_providers() {
  for (Source& source : sources_) {
    VHOST_RETURN_IF_ERROR(
        annotate(source.provider->enable(), source.provider->name()));
    source.enabled = true;
  }
  return absl::OkStatus();
}

void DirtyTracker::disable() {
  for (Source& source : sources_) {
    if (std::exchange(source.enabled, false)) source.provider->disable();
  }
  if (std::exchange(logging_, false)) context_.listener().log_global_stop();
}

absl::StatusOr<std::vector<RamBlock>> DirtyTracker::set_blocks(
    std::vector<MigrationRam> blocks) {
  std::map<uint32_t, MigrationRam> next;
  std::map<uint64_t, uint64_t> ranges;  // End -> begin.
  for (MigrationRam& block : blocks) {
    VHOST_RETURN_IF_ERROR(check_ram(block));
    const auto clash = ranges.upper_bound(block.gpa);
    if (clash != ranges.end() && clash->second < block.gpa + block.size) {
      return absl::InvalidArgumentError(
          absl::StrCat("ram block ", block.name, ": overlaps another one"));
    }
    ranges[block.gpa + block.size] = block.gpa;
    const uint32_t id = block.id;
    const auto old = blocks_.find(id);
    if ((old != blocks_.end() && !same(old->second, block)) ||
        !next.emplace(id, std::move(block)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("ram block ", id, ": the id was another block's"));
    }
  }
  for (const auto& [id, block] : blocks_) {
    if (next.contains(id)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("ram block ", block.name, ": was removed meanwhile"));
  }
  std::vector<RamBlock> added;
  for (auto& [id, block] : next) {
    if (blocks_.contains(id)) continue;
    const auto bitmap =
        bitmaps_.emplace(id, DirtyBitmap(block.gpa, block.size)).first;
    bitmap->second.fill();
    by_end_[(block.gpa + block.size) / kLogPageSize] = &bitmap->second;
    added.push_back({id, block.name, block.gpa, block.size});
    blocks_.emplace(id, std::move(block));
  }
  return added;
}

uint64_t DirtyTracker::ram_size() const {
  uint64_t out = 0;
  for (const auto& [id, block] : blocks_) out += block.size;
  return out;
}

uint64_t DirtyTracker::sync_log() {
  Sink sink(*this);
  context_.log().harvest_all(sink);
  log_pages_ += sink.pages();
  return sink.pages();
}

absl::Status DirtyTracker::sync() {
  sync_log();
  for (Source& source : sources_) {
    Sink sink(*this);
    VHOST_RETURN_IF_ERROR(
        annotate(source.provider->sync(sink), source.provider->name()));
    source.pages += sink.pages();
  }
  return absl::OkStatus();
}

std::optional<DirtyTracker::Piece> DirtyTracker::take(uint64_t most) {
  // Block after block, beginning with the one that was last.
  auto next = bitmaps_.lower_bound(turn_);
  for (size_t i = 0; i < bitmaps_.size(); ++i, ++next) {
    if (next == bitmaps_.end()) next = bitmaps_.begin();
    if (const auto run = next->second.take(most)) {
      turn_ = next->first;
      return Piece{&blocks_.at(next->first), *run};
    }
  }
  return std::nullopt;
}

uint64_t DirtyTracker::dirty() const {
  uint64_t pages = 0;
  for (const auto& [id, bitmap] : bitmaps_) pages += bitmap.dirty();
  return pages * kLogPageSize;
}

std::vector<DirtyTracker::Told> DirtyTracker::told() const {
  std::vector<Told> out = {{"vhost", log_pages_ * kLogPageSize}};
  for (const Source& source : sources_) {
    out.push_back(
        {std::string(source.provider->name()), source.pages * kLogPageSize});
  }
  return out;
}

void tell_dirty(uint64_t gpa, uint64_t size, DirtySink& sink) {
  if (size == 0 || gpa > std::numeric_limits<uint64_t>::max() - (size - 1)) {
    return;
  }
  const uint64_t last = (gpa + (size - 1)) / kLogPageSize;
  for (uint64_t page = gpa / kLogPageSize; page <= last;) {
    const uint64_t word = page / kLogWordPages * kLogWordPages;
    uint64_t bits = ~uint64_t{0} << (page - word);
    if (last - word < kLogWordPages - 1) {
      bits &= (uint64_t{1} << (last - word + 1)) - 1;
    }
    sink.dirty(word, bits);
    page = word + kLogWordPages;
  }
}

}  // namespace vhost
