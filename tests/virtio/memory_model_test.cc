// SPDX-License-Identifier: Apache-2.0
//
// Random memory changes, followed by views and rebuilt from scratch by a model
// that knows nothing of changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include "hw/virtio/applied_memory.h"
#include "hw/virtio/context_impl.h"
#include "hw/virtio/memory_view.h"
#include "tests/virtio/memory_fixture.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"

namespace vhost {
namespace {

using Entries = std::vector<MemoryTableEntry>;

constexpr std::array<MemoryPolicy, 6> kPolicies = {{
    {.fd_only = true, .align_host = true},
    {.merge = true},
    {.align_iova = true, .include_readonly = true},
    {.merge = false},
    {.fd_only = true, .align_host = true, .merge = false},
    {.align_host = true, .include_readonly = true},
}};

// The rules, written down once more as plainly as possible.
class ModelTable {
 public:
  ModelTable(const MemoryPolicy& policy,
             const std::vector<MemorySection>& sections)
      : policy_(policy) {
    for (const MemorySection& section : sections) add(section);
  }

  Entries entries;
  bool complete = true;

 private:
  struct Piece {
    int64_t begin, end;  // Guest addresses: the model's are all small.
    int64_t shift;       // Region offset minus guest address.
  };

  void add(const MemorySection& section) {
    if (!section.ram || section.write_tracked) return;
    if (section.readonly && !policy_.include_readonly) return;
    if (policy_.fd_only && !section.region->fd().valid()) return;
    const auto begin = static_cast<int64_t>(section.gpa);
    Piece piece{begin, begin + static_cast<int64_t>(section.size),
                static_cast<int64_t>(section.offset_in_region) - begin};
    if (policy_.align_host && !grow(piece, *section.region)) return fail();
    if (policy_.align_iova) {
      const int64_t host = host_of(*section.region) + piece.shift;
      if (host % int64_t{kPage} != 0) return fail();
      piece.begin = (piece.begin + 4095) / 4096 * 4096;
      piece.end = piece.end / 4096 * 4096;
      if (piece.begin >= piece.end) return;
    }
    put(section, piece);
  }

  static int64_t host_of(const MemoryRegion& region) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(region.host()));
  }

  static bool grow(Piece& piece, const MemoryRegion& region) {
    const auto page = static_cast<int64_t>(region.page_size());
    const auto size = static_cast<int64_t>(region.size());
    const int64_t to_host = host_of(region) + piece.shift;
    while ((piece.begin + to_host) % page != 0 &&
           piece.begin + piece.shift > 0) {
      piece.begin -= 2048;  // The model's finest grain.
    }
    while ((piece.end + to_host) % page != 0 && piece.end + piece.shift < size)
      piece.end += 2048;
    return piece.begin >= 0;
  }

  void put(const MemorySection& section, const Piece& piece) {
    if (!entries.empty()) {
      MemoryTableEntry& last = entries.back();
      const auto last_end = static_cast<int64_t>(last.gpa + last.size);
      const bool same = last.region == section.region &&
                        last.readonly == section.readonly &&
                        last_shift_ == piece.shift && policy_.merge &&
                        !section.unmergeable && !last_unmergeable_;
      if (same && piece.begin <= last_end) {
        last.size =
            static_cast<uint64_t>(std::max(last_end, piece.end)) - last.gpa;
        return;
      }
      if (piece.begin < last_end) return fail();
    }
    MemoryTableEntry entry;
    entry.gpa = static_cast<uint64_t>(piece.begin);
    entry.size = static_cast<uint64_t>(piece.end - piece.begin);
    entry.user = static_cast<uint64_t>(host_of(*section.region) + piece.shift +
                                       piece.begin);
    entry.fd = section.region->fd();
    entry.mmap_offset = section.region->fd_offset() +
                        static_cast<uint64_t>(piece.begin + piece.shift);
    entry.readonly = section.readonly;
    entry.region = section.region;
    entries.push_back(entry);
    last_shift_ = piece.shift;
    last_unmergeable_ = section.unmergeable;
  }

  void fail() { complete = false; }

  const MemoryPolicy policy_;
  int64_t last_shift_ = 0;
  bool last_unmergeable_ = false;
};

bool identical(const Entries& a, const Entries& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const MemoryTableEntry& x, const MemoryTableEntry& y) {
                      return x == y && x.fd == y.fd &&
                             x.mmap_offset == y.mmap_offset;
                    });
}

// `table` after `diff`; fails the test if the diff does not fit it.
Entries patched(Entries table, const MemoryDiff& diff) {
  for (const MemoryTableEntry& entry : diff.removed) {
    const auto found = std::find(table.begin(), table.end(), entry);
    EXPECT_NE(found, table.end()) << "removes what is not there";
    if (found != table.end()) table.erase(found);
  }
  for (const MemoryTableEntry& entry : diff.added) {
    EXPECT_EQ(std::find(table.begin(), table.end(), entry), table.end())
        << "adds what is there";
    table.push_back(entry);
  }
  // A back-end that refuses removals may have entries with one address.
  std::sort(table.begin(), table.end(),
            [](const MemoryTableEntry& a, const MemoryTableEntry& b) {
              return std::tie(a.gpa, a.size, a.user, a.region, a.readonly) <
                     std::tie(b.gpa, b.size, b.user, b.region, b.readonly);
            });
  return table;
}

// How untidy the sections are.
struct Style {
  uint64_t grain;      // Addresses and sizes are multiples of it.
  int foreign_one_in;  // How often a section is not where its region belongs.
  int flags_one_in;    // How often it has a flag.
};

class Walk {
 public:
  Walk(uint64_t seed, const Style& style) : random_(seed), style_(style) {
    regions_ = {region_at(0x7f0000000000, 16 * kHugePage, kPage),
                region_at(0x7e0000000000, 16 * kHugePage, kHugePage),
                region_at(0x7d0000000000 + kPage, 16 * kHugePage, kHugePage),
                region_at(0x7c0000000000, 16 * kHugePage, kPage, -1)};
  }

  void step() {
    change();
    check_all();
  }

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }
  bool one_in(int n) { return n != 0 && below(static_cast<uint64_t>(n)) == 0; }

  MemorySection random_section() {
    const uint64_t cells = 8 * kHugePage / style_.grain;
    const uint64_t gpa = below(cells) * style_.grain;
    uint64_t size = (1 + below(1 + cells / 24)) * style_.grain;
    if (style_.foreign_one_in == 0)  // Not into another region's home.
      size = std::min(size, 2 * kHugePage - gpa % (2 * kHugePage));
    // Where the region "belongs" its offset equals the guest address, so that
    // neighbours continue each other.
    constexpr std::array<size_t, 4> kAtHome = {0, 1, 3, 1};
    const auto& region = regions_[one_in(style_.foreign_one_in)
                                      ? below(regions_.size())
                                      : kAtHome[gpa / (2 * kHugePage)]];
    const uint64_t offset =
        one_in(style_.foreign_one_in) ? below(cells) * style_.grain : gpa;
    MemorySection section = section_of(region, gpa, offset, size);
    if (one_in(style_.flags_one_in)) section.readonly = true;
    if (one_in(style_.flags_one_in)) section.unmergeable = true;
    if (one_in(style_.flags_one_in)) section.write_tracked = true;
    if (one_in(style_.flags_one_in)) section.ram = false;
    return section;
  }

  // One transaction of several operations; those that the address space
  // refuses are no part of it.
  void change() {
    space_.begin();
    const uint64_t operations = one_in(50) ? 60 : 1 + below(5);
    for (uint64_t i = 0; i < operations; ++i) {
      const auto sections = space_.sections();
      if (!sections.empty() && below(100) < 20 + sections.size()) {
        const MemorySection gone = sections[below(sections.size())];
        ASSERT_TRUE(space_.remove(gone.gpa).ok());
        if (one_in(8)) {
          ASSERT_TRUE(space_.add(gone).ok());
        }
      } else {
        space_.add(random_section()).IgnoreError();
      }
    }
    ASSERT_TRUE(space_.commit().ok());  // There is no device to complain.
  }

  void check_all() {
    const auto sections = space_.sections();
    for (size_t i = 0; i < kPolicies.size(); ++i) check(i, sections);
  }

  struct Held {
    std::shared_ptr<const MemorySnapshot> snapshot;
    Entries table;
  };
  struct Track {
    Entries table;
    uint64_t generation = 0;
    std::vector<Held> held;
    AppliedMemory applied;
    Entries told;
  };

  void check(size_t policy, const std::vector<MemorySection>& sections) {
    MemoryView& view = context_.impl().view(kPolicies[policy]);
    const ModelTable model(kPolicies[policy], sections);
    Track& track = tracks_[policy];
    ASSERT_EQ(view.status().ok(), model.complete);
    if (style_.foreign_one_in == 0 && kPolicies[policy].merge) {
      ASSERT_TRUE(model.complete);  // All of this was followed in steps.
    }
    ASSERT_EQ(view.size(), model.entries.size());
    const bool changed = !identical(track.table, model.entries);
    if (track.generation != 0) {
      ASSERT_EQ(view.generation() != track.generation, changed);
    }
    track.generation = view.generation();
    track.table = model.entries;

    if (one_in(2)) return;  // Or is it several changes behind?
    check_snapshots(view, track);
    check_applied(view, track);
  }

  void check_snapshots(MemoryView& view, Track& track) {
    if (one_in(4)) track.held.push_back({view.snapshot(), track.table});
    if (one_in(12)) {
      ASSERT_TRUE(identical(entries_of(view.snapshot()), track.table));
    }
    if (track.held.empty()) return;
    const size_t pick = below(track.held.size());
    const Held& held = track.held[pick];
    MemoryDiff scratch;
    const MemoryDiff& diff = view.diff(held.snapshot.get(), scratch);
    ASSERT_TRUE(identical(patched(held.table, diff), track.table));
    ASSERT_EQ(diff.after->generation(), view.generation());
    if (one_in(2)) {
      ASSERT_TRUE(identical(entries_of(held.snapshot), held.table));
      ASSERT_EQ(held.snapshot->size(), held.table.size());
      track.held.erase(track.held.begin() + static_cast<int64_t>(pick));
    }
  }

  // A back-end that sometimes refuses, and is sometimes not told.
  void check_applied(MemoryView& view, Track& track) {
    if (one_in(3)) return;
    const uint64_t slots = one_in(6) ? 5 : UINT64_MAX;
    const MemoryDiff diff = track.applied.diff_to(view, slots);
    BatchResult result;
    Entries told = track.told;
    MemoryDiff done;
    if (one_in(5)) {
      result.status = absl::AbortedError("refused");
      const auto fate = [&](const Entries& list, StepKind kind, Entries& out) {
        for (uint32_t i = 0; i < list.size(); ++i) {
          const bool ok = one_in(2);
          (ok ? result.applied : result.refused).push_back({kind, i});
          if (ok) out.push_back(list[i]);
        }
      };
      done.removed = diff.removed;
      for (uint32_t i = 0; i < diff.removed.size(); ++i)
        result.applied.push_back({StepKind::kMemoryRemove, i});
      fate(diff.added, StepKind::kMemoryAdd, done.added);
    } else {
      done = diff;
      const Entries after = patched(told, done);
      if (slots != UINT64_MAX) {
        ASSERT_LE(after.size(), std::max(slots, told.size()));
      } else {
        ASSERT_TRUE(identical(after, track.table));
      }
    }
    track.told = patched(told, done);
    track.applied.apply(diff, result);
    ASSERT_EQ(track.applied.slots_used(), track.told.size());
    for (const MemoryTableEntry& e : track.told)
      ASSERT_TRUE(track.applied.contains(e.gpa, e.size, e.user));
    if (result.status.ok() || one_in(2)) return;
    roll_back(track, diff, told);
  }

  // A device whose back-end refuses to give memory up is broken: not here.
  void roll_back(Track& track, const MemoryDiff& diff, const Entries& before) {
    const auto overlap = [](const MemoryTableEntry& a,
                            const MemoryTableEntry& b) {
      return a.gpa < b.gpa + b.size && b.gpa < a.gpa + a.size;
    };
    const auto has = [](const Entries& list, const MemoryTableEntry& entry) {
      return std::find(list.begin(), list.end(), entry) != list.end();
    };
    const MemoryDiff back = track.applied.rollback(diff);
    const Entries after = patched(track.told, back);
    ASSERT_TRUE(identical(entries_of(back.after), after));
    for (const MemoryTableEntry& added : diff.added) {
      const bool refused = !has(track.told, added);
      bool replaces = false;
      for (const MemoryTableEntry& old : before) {
        if (!overlap(old, added)) continue;
        replaces = true;
        if (refused) {
          ASSERT_TRUE(has(after, old));
        }
      }
      if (!refused && !replaces) {
        ASSERT_TRUE(has(after, added));
      }
    }
    for (size_t i = 1; i < after.size(); ++i)
      ASSERT_FALSE(overlap(after[i - 1], after[i]));
    track.applied.apply(back, {});
    track.told = after;
  }

  std::mt19937_64 random_;
  const Style style_;
  std::vector<std::shared_ptr<const MemoryRegion>> regions_;
  testing::ManualEventLoop loop_;
  AddressSpace space_;
  VhostContext context_{loop_, space_};
  std::map<size_t, Track> tracks_;
};

// VHOSTDEV_SEED in the environment repeats a run.
uint64_t pick_seed() {
  const char* given = std::getenv("VHOSTDEV_SEED");
  if (given != nullptr) return std::strtoull(given, nullptr, 0);
  return std::random_device()();
}

void walk(const Style& style, int transactions) {
  const uint64_t seed = pick_seed();
  SCOPED_TRACE(::testing::Message() << "VHOSTDEV_SEED=" << seed);
  Walk walk(seed, style);
  for (int i = 0; i < transactions; ++i) {
    SCOPED_TRACE(::testing::Message() << "transaction " << i);
    walk.step();
    if (::testing::Test::HasFailure()) return;
  }
}

// Together 10^5 operations: a transaction has 4.1 on average.
TEST(MemoryModel, ViewsFollowTidyMemoryExactlyAsIfRebuiltEachTime) {
  walk({.grain = kHugePage / 8, .foreign_one_in = 0, .flags_one_in = 0}, 9000);
}

TEST(MemoryModel, ViewsFollowMemoryWithFlagsExactlyAsIfRebuiltEachTime) {
  walk({.grain = kPage * 8, .foreign_one_in = 60, .flags_one_in = 12}, 8000);
}

TEST(MemoryModel, ViewsFollowMemoryThatCannotAllBeMappedAsIfRebuiltEachTime) {
  walk({.grain = kPage / 2, .foreign_one_in = 2, .flags_one_in = 6}, 8000);
}

}  // namespace
}  // namespace vhost
