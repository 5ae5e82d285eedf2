// SPDX-License-Identifier: Apache-2.0
// One bitmap: which pages come out of it, and what stays in.
#include "hw/virtio/log_bitmap.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Pages = std::vector<uint64_t>;
using Sharing = LogBitmap::Sharing;

constexpr uint64_t kSize = 4096;  // Bytes of bitmap: 32768 pages.
constexpr uint64_t kPages = kSize * 8;
constexpr PageRange kAllPages = {0, UINT64_MAX / kLogPageSize};

std::shared_ptr<LogBitmap> make(Sharing sharing = Sharing::kPrivate,
                                uint64_t size = kSize) {
  auto made = LogBitmap::create(size, sharing);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

Pages harvest(LogBitmap& bitmap, PageRange range = kAllPages) {
  Pages out;
  DirtyPages sink([&out](uint64_t page) { out.push_back(page); });
  const uint64_t count = bitmap.harvest(range, sink);
  EXPECT_EQ(count, out.size());
  return out;
}

// As the specification has it: a byte, and a bit in it.
void set_as_a_backend(LogBitmap& bitmap, uint64_t page) {
  auto* const bytes = static_cast<uint8_t*>(bitmap.area().base);
  std::atomic_ref(bytes[page / 8])
      .fetch_or(static_cast<uint8_t>(1u << page % 8));
}

TEST(LogBitmap, HasABitForEveryAddressUpToTheLast) {
  EXPECT_EQ(*LogBitmap::size_for(0), 4096u);
  EXPECT_EQ(*LogBitmap::size_for((128u << 20) - 1), 4096u);
  EXPECT_EQ(*LogBitmap::size_for(128u << 20), 8192u);
  // A terabyte of memory.
  EXPECT_EQ(*LogBitmap::size_for((uint64_t{1} << 40) - 1), 32u << 20);
}

TEST(LogBitmap, IsRefusedWhereItWouldBeTooLarge) {
  const uint64_t end = kMaxLogSize / 8 * kLogWordSpan;
  EXPECT_EQ(*LogBitmap::size_for(end - 1), kMaxLogSize);
  EXPECT_EQ(LogBitmap::size_for(end).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LogBitmap::size_for(UINT64_MAX).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(LogBitmap, TakesOnlyASizeThatCanBeMapped) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{8}, kMaxLogSize + 4096}) {
    EXPECT_EQ(LogBitmap::create(size, Sharing::kPrivate).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(LogBitmap, ThatIsPrivateHasNoDescriptor) {
  const auto bitmap = make();
  EXPECT_FALSE(bitmap->area().fd.valid());
  EXPECT_NE(bitmap->area().base, nullptr);
  EXPECT_EQ(bitmap->area().size, kSize);
}

TEST(LogBitmap, ThatIsSharedCannotBeResized) {
  const auto bitmap = make(Sharing::kShared);
  const int fd = bitmap->area().fd.get();
  struct stat info = {};
  ASSERT_EQ(::fstat(fd, &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kSize);
  EXPECT_NE(::ftruncate(fd, 0), 0);
  EXPECT_NE(::ftruncate(fd, 2 * kSize), 0);
  EXPECT_NE(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
}

TEST(LogBitmap, ThatIsSharedSeesWhatAnotherMappingSets) {
  const auto bitmap = make(Sharing::kShared);
  void* const other = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED,
                             bitmap->area().fd.get(), 0);
  ASSERT_NE(other, MAP_FAILED);
  static_cast<uint8_t*>(other)[70 / 8] = 1u << 70 % 8;
  EXPECT_THAT(harvest(*bitmap), ElementsAre(70));
  ::munmap(other, kSize);
}

TEST(LogBitmap, HandsEachPageOutOnce) {
  const auto bitmap = make();
  for (const uint64_t page : {0u, 7u, 8u, 63u, 64u, 4711u, 32767u}) {
    set_as_a_backend(*bitmap, page);
  }
  EXPECT_THAT(harvest(*bitmap), ElementsAre(0, 7, 8, 63, 64, 4711, 32767));
  EXPECT_THAT(harvest(*bitmap), IsEmpty());
}

TEST(LogBitmap, LeavesPagesOutsideTheRangeThatShareAWordWithIt) {
  const auto bitmap = make();
  bitmap->mark({0, 255});
  EXPECT_THAT(harvest(*bitmap, {70, 72}), ElementsAre(70, 71, 72));
  EXPECT_THAT(harvest(*bitmap, {63, 64}), ElementsAre(63, 64));
  EXPECT_THAT(harvest(*bitmap, {127, 128}), ElementsAre(127, 128));
  EXPECT_EQ(harvest(*bitmap).size(), 256u - 7);
}

TEST(LogBitmap, EndsWhereItsLastPageIs) {
  const auto bitmap = make();
  bitmap->mark({kPages - 1, kPages + 1000});
  EXPECT_THAT(harvest(*bitmap, {kPages, kPages + 100}), IsEmpty());
  EXPECT_THAT(harvest(*bitmap, {kPages - 2, UINT64_MAX}),
              ElementsAre(kPages - 1));
  bitmap->mark({kPages, kPages});
  EXPECT_THAT(harvest(*bitmap), IsEmpty());
}

TEST(LogBitmap, TakesOverWhatAnotherHasAsFarAsItReaches) {
  const auto small = make();
  const auto large = make(Sharing::kPrivate, 2 * kSize);
  small->mark({5, 5});
  large->mark({5, 6});
  large->mark({kPages - 1, kPages});
  small->absorb(*large);
  EXPECT_THAT(harvest(*small), ElementsAre(5, 6, kPages - 1));
  EXPECT_THAT(harvest(*large), ElementsAre(kPages));
}

// With holes and without, and looked through in every way there is.
class EachLogBitmap
    : public ::testing::TestWithParam<std::tuple<Sharing, const LogWalk*>> {
 protected:
  static std::shared_ptr<LogBitmap> make() {
    const auto [sharing, walk] = GetParam();
    return *LogBitmap::create(kSize, sharing, *walk);
  }
};

TEST(LogBitmap, TellsASinkManyWordsAtOnceAndNeverAnEmptyOne) {
  class Sink final : public DirtySink {
   public:
    void dirty(uint64_t, uint64_t) override { FAIL() << "one by one"; }
    void dirty_words(std::span<const DirtyWord> words) override {
      ++calls;
      told.insert(told.end(), words.begin(), words.end());
    }
    int calls = 0;
    std::vector<DirtyWord> told;
  };
  const auto bitmap = make();
  bitmap->mark({64, 64});
  bitmap->mark({130, 131});
  bitmap->mark({kPages - 64, kPages - 1});
  Sink sink;
  EXPECT_EQ(bitmap->harvest(kAllPages, sink), 67u);
  EXPECT_EQ(sink.calls, 1);
  EXPECT_THAT(sink.told, ElementsAre(DirtyWord{64, 1}, DirtyWord{128, 12},
                                     DirtyWord{kPages - 64, ~uint64_t{0}}));
  bitmap->harvest(kAllPages, sink);
  EXPECT_EQ(sink.calls, 1);
}

// Against the simplest thing that could be right.
TEST_P(EachLogBitmap, DoesWhatASetOfPagesDoes) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const auto bitmap = make();
  std::set<uint64_t> model;
  for (int round = 0; round < 20000; ++round) {
    // Often beyond the end, and often within one word.
    const uint64_t first = random() % (kPages + 100);
    const uint64_t length = random() % (random() % 2 == 0 ? 3 : 300);
    const PageRange range = {first, first + length};
    if (random() % 2 == 0) {
      bitmap->mark(range);
      for (uint64_t p = first; p <= range.last && p < kPages; ++p) {
        model.insert(p);
      }
      continue;
    }
    const auto begin = model.lower_bound(range.first);
    const auto end = model.upper_bound(range.last);
    const Pages expected(begin, end);
    model.erase(begin, end);
    ASSERT_EQ(harvest(*bitmap, range), expected) << "round " << round;
  }
  EXPECT_EQ(harvest(*bitmap), Pages(model.begin(), model.end()));
}

// A back-end goes on while we harvest: each page is found after its last mark,
// and what was written before the mark is seen.
TEST_P(EachLogBitmap, LosesNoPageOfAThreadThatMarksMeanwhile) {
  constexpr uint64_t kRounds = 200;
  const auto bitmap = make();
  std::vector<uint64_t> memory(kPages / 64, 0);  // Some pages, a word each.
  std::vector<uint64_t> seen(memory.size(), 0);
  std::atomic<bool> over = false;
  std::thread device([&] {
    for (uint64_t round = 1; round <= kRounds; ++round) {
      for (uint64_t i = 0; i < memory.size(); ++i) {
        std::atomic_ref(memory[i]).store(round, std::memory_order_relaxed);
        set_as_a_backend(*bitmap, i * 64 + i % 64);
      }
    }
    over = true;
  });
  const auto sweep = [&] {
    for (const uint64_t page : harvest(*bitmap)) {
      const uint64_t i = page / 64;
      seen[i] = std::atomic_ref(memory[i]).load(std::memory_order_relaxed);
    }
  };
  while (!over) sweep();
  device.join();
  sweep();
  for (uint64_t i = 0; i < seen.size(); ++i) {
    ASSERT_EQ(seen[i], kRounds) << "page " << i * 64 + i % 64;
  }
  EXPECT_THAT(harvest(*bitmap), IsEmpty());
}

std::string name_of(
    const ::testing::TestParamInfo<EachLogBitmap::ParamType>& p) {
  const auto [sharing, walk] = p.param;
  return absl::StrCat(sharing == Sharing::kShared ? "shared_" : "private_",
                      walk->name);
}

INSTANTIATE_TEST_SUITE_P(
    OfThisProcessor, EachLogBitmap,
    ::testing::Combine(::testing::Values(Sharing::kPrivate, Sharing::kShared),
                       ::testing::ValuesIn(log_walks().begin(),
                                           log_walks().end())),
    name_of);

}  // namespace
}  // namespace vhost
