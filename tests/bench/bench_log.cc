// SPDX-License-Identifier: Apache-2.0
//
// What a sync of the dirty log of a terabyte of guest memory costs, against
// what it cannot cost less than (memchr over as many bytes) and against the
// loop of QEMU's vhost_dev_sync_region: skip words that are 0, exchange the
// others, one call for each page.  Rounds of all candidates alternate; medians
// of this thread's processor time are compared.
//
//   bench_log [--smoke]
//
// Prints one JSON document.  Exit status 1 if a goal is missed (not with
// --smoke, which only shows that it runs, on a smaller log).
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "hw/virtio/log_bitmap.h"
#include "hw/virtio/log_walk.h"
#include "tests/bench/bench_kit.h"
#include "tests/bench/log_devices.h"
#include "vhostdev/vhost_log.h"

namespace vhost::bench {
namespace {

constexpr PageRange kAllPages = {0, UINT64_MAX / kLogPageSize};

// How much is dirty, and what a sync may cost then, in memchr.
struct Row {
  const char* name;
  double dirty;  // Of all pages, at random places.
  double goal;
  int rounds;
  int slow_rounds;  // Of what calls for each page.
};
constexpr Row kRows[] = {
    {"0", 0, 1.3, 51, 51},
    {"0.001_percent", 1e-5, 3, 51, 51},
    {"0.1_percent", 1e-3, 6, 51, 15},
    {"10_percent", 0.1, 30, 15, 5},
    {"100_percent", 1, 30, 15, 3},
};
constexpr double kFirstSyncGoal = 50;  // Microseconds.
constexpr double kDevicesGoal = 1.15;  // 48 of them, in syncs with one.

// This thread's processor time: the machine may have other work.
double now_us() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 +
         static_cast<double>(now.tv_nsec) * 1e-3;
}

double time_of(const std::function<void()>& work) {
  const double start = now_us();
  work();
  return now_us() - start;
}

// What a VMM keeps: pages to be sent.
class OrSink final : public DirtySink {
 public:
  explicit OrSink(size_t words) : words_(words) {}
  void dirty(uint64_t first_page, uint64_t bits) override {
    words_[first_page / kLogWordPages] |= bits;
    ++told_;
  }
  void dirty_words(std::span<const DirtyWord> words) override {
    uint64_t* const to = words_.data();
    for (const DirtyWord& word : words) {
      to[word.first_page / kLogWordPages] |= word.bits;
    }
    told_ += words.size();
  }
  uint64_t told() const { return told_; }

 private:
  std::vector<uint64_t> words_;
  uint64_t told_ = 0;
};

// The loop of vhost_dev_sync_region, and the least that can stand behind its
// call for a page.
class PerPage {
 public:
  explicit PerPage(size_t words) : bitmap_(words) {}

  uint64_t sync(uint64_t* log, size_t count) {
    uint64_t pages = 0;
    for (size_t i = 0; i < count; ++i) {
      if (__atomic_load_n(log + i, __ATOMIC_RELAXED) == 0) continue;
      uint64_t bits = __atomic_exchange_n(log + i, 0, __ATOMIC_SEQ_CST);
      for (; bits != 0; bits &= bits - 1) {
        set_dirty_(*this, i * kLogWordPages +
                              static_cast<uint64_t>(std::countr_zero(bits)));
        ++pages;
      }
    }
    return pages;
  }

 private:
  static void set_dirty(PerPage& self, uint64_t page) {
    __atomic_fetch_or(&self.bitmap_[page / 64], uint64_t{1} << page % 64,
                      __ATOMIC_SEQ_CST);
  }

  std::vector<uint64_t> bitmap_;
  void (*volatile set_dirty_)(PerPage&, uint64_t) = set_dirty;
};

std::vector<uint64_t> image_of(double dirty, size_t words) {
  std::vector<uint64_t> out(words, dirty < 1 ? 0 : ~uint64_t{0});
  if (dirty >= 1) return out;
  std::mt19937_64 random(1);
  const uint64_t pages = words * kLogWordPages;
  for (auto left = static_cast<uint64_t>(static_cast<double>(pages) * dirty);
       left > 0; --left) {
    const uint64_t page = random() % pages;
    out[page / 64] |= uint64_t{1} << page % 64;
  }
  return out;
}

struct Candidate {
  std::string name;
  bool slow;  // Calls for each page.
  std::function<void()> run;
  std::vector<double> us = {};
};

class Bench {
 public:
  explicit Bench(bool smoke)
      : smoke_(smoke),
        size_(smoke ? 1 << 20 : 32 << 20),
        words_(size_ / sizeof(uint64_t)),
        sink_(words_),
        per_page_(words_),
        zeros_(size_) {}

  bool run() {
    absl::PrintF("{\n  \"log_bytes\": %d,\n  \"walk\": \"%s\",\n", size_,
                 best_log_walk().name);
    for (const Row& row : kRows) run_row(row);
    first_sync();
    devices();
    absl::PrintF("  \"goals_met\": %s\n}\n", met_ ? "true" : "false");
    return met_;
  }

 private:
  // A log as large as `size_` in which every page was in use before.
  std::shared_ptr<LogBitmap> log_in_use(const LogWalk& walk) {
    auto log = take(LogBitmap::create(size_, LogBitmap::Sharing::kShared, walk),
                    "log");
    log->mark(kAllPages);
    log->harvest(kAllPages, sink_);
    return log;
  }

  void run_row(const Row& row) {
    const std::vector<uint64_t> image = image_of(row.dirty, words_);
    uint64_t dirty = 0;
    for (const uint64_t word : image) {
      dirty += static_cast<uint64_t>(std::popcount(word));
    }
    std::vector<std::shared_ptr<LogBitmap>> logs;
    std::vector<Candidate> candidates = {
        {"memchr", false,
         [this] {
           const void* const found = std::memchr(zeros_.data(), 1, size_);
           asm volatile("" : : "r"(found) : "memory");
         }},
    };
    for (const LogWalk* walk : log_walks()) {
      const auto log = logs.emplace_back(log_in_use(*walk));
      candidates.push_back({walk->name, false, [this, log, dirty] {
                              require(log->harvest(kAllPages, sink_) == dirty);
                            }});
    }
    const auto left = logs.emplace_back(log_in_use(best_log_walk()));
    candidates.push_back(
        {"after_a_switch", false, [this, left, dirty] {
           require(left->harvest(kAllPages, sink_, LogBitmap::Writers::kNone) ==
                   dirty);
         }});
    const auto log = logs.emplace_back(log_in_use(best_log_walk()));
    candidates.push_back({"per_page_like_qemu", true, [this, log, dirty] {
                            auto* const words =
                                static_cast<uint64_t*>(log->area().base);
                            require(per_page_.sync(words, words_) == dirty);
                          }});

    for (int round = 0; round < (smoke_ ? 1 : row.rounds); ++round) {
      for (size_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].slow && round >= row.slow_rounds) continue;
        // Just written, all of them: as near as a back-end leaves it.
        if (i == 0) {
          std::memset(zeros_.data(), 0, size_);
        } else {
          std::memcpy(logs[i - 1]->area().base, image.data(), size_);
        }
        candidates[i].us.push_back(time_of(candidates[i].run));
      }
    }

    const double floor = median(candidates[0].us);
    const double ours = median(candidates[log_walks().size()].us) / floor;
    absl::PrintF("  \"%s\": {\"dirty_pages\": %d", row.name, dirty);
    for (const Candidate& each : candidates) {
      const double us = median(each.us);
      absl::PrintF(",\n    \"%s\": {\"us\": %.0f, \"ratio\": %.2f}", each.name,
                   us, us / floor);
    }
    const bool met = ours <= row.goal;
    absl::PrintF(",\n    \"goal\": %.1f, \"met\": %s},\n", row.goal,
                 met ? "true" : "false");
    met_ = met_ && met;
  }

  // Of a log that nobody has marked yet.
  void first_sync() {
    std::vector<double> ours;
    std::vector<double> per_page;
    uint64_t blocks = 0;
    for (int round = 0; round < (smoke_ ? 1 : 21); ++round) {
      const auto fresh = [this] {
        return take(LogBitmap::create(size_, LogBitmap::Sharing::kShared),
                    "log");
      };
      const auto log = fresh();
      ours.push_back(time_of([&] { log->harvest(kAllPages, sink_); }));
      struct stat info = {};
      require(::fstat(log->area().fd.get(), &info) == 0);
      blocks += static_cast<uint64_t>(info.st_blocks);
      const auto other = fresh();
      auto* const words = static_cast<uint64_t*>(other->area().base);
      per_page.push_back(time_of([&] { per_page_.sync(words, words_); }));
    }
    const bool met = median(ours) <= kFirstSyncGoal && blocks == 0;
    absl::PrintF(
        "  \"first_sync\": {\"us\": %.2f, \"blocks\": %d, "
        "\"per_page_like_qemu_us\": %.0f, \"goal_us\": %.0f, \"met\": %s},\n",
        median(ours), blocks, median(per_page), kFirstSyncGoal,
        met ? "true" : "false");
    met_ = met_ && met;
  }

  // The same sync with one device and with many.
  void devices() {
    LogDevices one(1, size_);
    LogDevices many(48, size_);
    const std::vector<uint64_t> image = image_of(1e-5, words_);
    std::vector<double> us_one;
    std::vector<double> us_many;
    const std::vector<uint64_t> all(words_, ~uint64_t{0});
    one.mark(all);  // From now on every page is in use.
    one.sync(sink_);
    many.mark(all);
    many.sync(sink_);
    for (int round = 0; round < (smoke_ ? 1 : 51); ++round) {
      one.mark(image);
      us_one.push_back(time_of([&] { one.sync(sink_); }));
      many.mark(image);
      us_many.push_back(time_of([&] { many.sync(sink_); }));
    }
    const double ratio = median(us_many) / median(us_one);
    const bool met = ratio <= kDevicesGoal;
    absl::PrintF(
        "  \"devices\": {\"us_with_1\": %.0f, \"us_with_48\": %.0f, "
        "\"ratio\": %.2f, \"goal\": %.2f, \"met\": %s},\n",
        median(us_one), median(us_many), ratio, kDevicesGoal,
        met ? "true" : "false");
    met_ = met_ && met;
  }

  static void require(bool true_of_it) {
    if (true_of_it) return;
    std::fprintf(stderr, "bench_log: a page was lost\n");
    std::exit(1);
  }

  const bool smoke_;
  const size_t size_;
  const size_t words_;
  OrSink sink_;
  PerPage per_page_;
  std::vector<char> zeros_;
  bool met_ = true;
};

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) {
  const bool smoke = argc == 2 && std::strcmp(argv[1], "--smoke") == 0;
  if (argc != 1 && !smoke) {
    std::fprintf(stderr, "usage: bench_log [--smoke]\n");
    return 2;
  }
  const bool met = vhost::bench::Bench(smoke).run();
  return met || smoke ? 0 : 1;
}
