// SPDX-License-Identifier: Apache-2.0
// The ways to look through a log, all that this processor has: each finds and
// takes what the simplest loop does.
#include "hw/virtio/log_walk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<uint64_t>;

constexpr uint32_t kGuard = 0xdead'beef;

class EachLogWalk : public ::testing::TestWithParam<const LogWalk*> {
 protected:
  static std::vector<uint32_t> find(const uint64_t* words, size_t count) {
    std::vector<uint32_t> out(count + kLogSlack + 1, kGuard);
    out.resize(GetParam()->find(words, count, out.data()));
    return out;
  }
};

std::vector<uint32_t> simplest_find(const uint64_t* words, size_t count) {
  std::vector<uint32_t> out;
  for (uint32_t i = 0; i < count; ++i) {
    if (words[i] != 0) out.push_back(i);
  }
  return out;
}

// `count` words of which about one in `sparse` has a few bits set.
Words random_words(std::mt19937_64& random, size_t count, uint64_t sparse) {
  Words out(count, 0);
  for (uint64_t& word : out) {
    if (random() % sparse == 0) word = random() & random() & random();
  }
  return out;
}

TEST_P(EachLogWalk, FindsOneDirtyWordAnywhere) {
  for (size_t at = 0; at < kLogBlock; ++at) {
    Words words(kLogBlock, 0);
    words[at] = uint64_t{1} << at % 64;
    ASSERT_THAT(find(words.data(), kLogBlock), ElementsAre(at));
    ASSERT_THAT(find(words.data(), at), ElementsAre());
  }
}

TEST_P(EachLogWalk, FindsAllOfAnyNumberOfDirtyWordsAndNoneBehind) {
  const Words words(kLogBlock + 8, ~uint64_t{0});
  for (size_t count = 0; count <= kLogBlock; ++count) {
    ASSERT_EQ(find(words.data(), count).size(), count);
  }
}

TEST_P(EachLogWalk, WritesNoFurtherBehindWhatItFoundThanItMay) {
  const Words words(kLogBlock, 1);
  for (size_t count = 0; count <= kLogBlock; ++count) {
    std::vector<uint32_t> found(kLogBlock + kLogSlack + 8, kGuard);
    GetParam()->find(words.data(), count, found.data());
    for (size_t i = count + kLogSlack; i < found.size(); ++i) {
      ASSERT_EQ(found[i], kGuard) << count << " words, entry " << i;
    }
  }
}

TEST_P(EachLogWalk, FindsWhatTheSimplestLoopFinds) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t sparse = uint64_t{1} << random() % 10;
    const Words words = random_words(random, kLogBlock + 8, sparse);
    const size_t from = random() % 8;  // Not at the start of a vector.
    const size_t count = random() % (kLogBlock + 1);
    ASSERT_EQ(find(words.data() + from, count),
              simplest_find(words.data() + from, count))
        << "round " << round;
  }
}

void takes_exactly_what_it_is_told_to(decltype(LogWalk::take) take) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const uint64_t sparse = uint64_t{1} << random() % 10;
    Words words = random_words(random, kLogBlock + 1, sparse);
    const Words before = words;
    const size_t from = random() % 2;  // Pairs begin at either word.
    std::vector<uint32_t> chosen;      // Dirty or not.
    for (uint32_t i = 0; i < kLogBlock; ++i) {
      if (random() % 4 != 0) chosen.push_back(i);
    }
    std::vector<DirtyWord> expected;
    Words left = before;
    uint64_t pages = 0;
    for (const uint32_t i : chosen) {
      uint64_t& word = left[from + i];
      if (word != 0) expected.push_back({(1000 + i) * kLogWordPages, word});
      pages += static_cast<uint64_t>(std::popcount(word));
      word = 0;
    }

    std::vector<DirtyWord> taken(chosen.size());
    const LogWalk::Taken result =
        take(words.data() + from, chosen.data(), chosen.size(),
             1000 * kLogWordPages, taken.data());
    taken.resize(result.words);

    ASSERT_EQ(taken, expected) << "round " << round;
    ASSERT_EQ(result.pages, pages);
    ASSERT_EQ(words, left);
  }
}

TEST_P(EachLogWalk, TakesExactlyWhatItIsToldTo) {
  takes_exactly_what_it_is_told_to(GetParam()->take);
}

TEST_P(EachLogWalk, TakesTheSameWhereNobodyWrites) {
  takes_exactly_what_it_is_told_to(GetParam()->take_detached);
}

// Each bit is set once, and comes out once.
TEST_P(EachLogWalk, LosesNoBitThatIsSetMeanwhile) {
  alignas(64) static uint64_t words[kLogBlock];
  std::atomic<bool> over = false;
  std::thread device([&over] {
    for (uint32_t bit = 0; bit < 64; ++bit) {
      for (uint64_t& word : words) {
        std::atomic_ref(word).fetch_or(uint64_t{1} << bit);
      }
    }
    over = true;
  });
  Words seen(kLogBlock, 0);
  const auto sweep = [&seen] {
    std::vector<uint32_t> found(kLogBlock + kLogSlack);
    std::vector<DirtyWord> taken(kLogBlock);
    const size_t count = GetParam()->find(words, kLogBlock, found.data());
    taken.resize(
        GetParam()->take(words, found.data(), count, 0, taken.data()).words);
    for (const DirtyWord& word : taken) {
      uint64_t& bits = seen[word.first_page / kLogWordPages];
      EXPECT_EQ(bits & word.bits, 0u) << "taken twice";
      bits |= word.bits;
    }
  };
  while (!over) sweep();
  device.join();
  sweep();
  EXPECT_EQ(seen, Words(kLogBlock, ~uint64_t{0}));
}

std::string name_of(const ::testing::TestParamInfo<const LogWalk*>& info) {
  return info.param->name;
}

INSTANTIATE_TEST_SUITE_P(OfThisProcessor, EachLogWalk,
                         ::testing::ValuesIn(log_walks().begin(),
                                             log_walks().end()),
                         name_of);

TEST(LogWalks, BeginWithThePortableOneAndTheLastIsTheBest) {
  EXPECT_STREQ(log_walks().front()->name, "portable");
  EXPECT_EQ(&best_log_walk(), log_walks().back());
}

}  // namespace
}  // namespace vhost
