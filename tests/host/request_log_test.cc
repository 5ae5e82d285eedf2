// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/request_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>

namespace vhost {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(LatencyHistogram, OfNothingIsZero) {
  const LatencyHistogram none;
  EXPECT_EQ(none.count(), 0u);
  EXPECT_EQ(none.mean(), Duration{0});
  EXPECT_EQ(none.percentile(99), Duration{0});
}

TEST(LatencyHistogram, CountsInPowersOfTwo) {
  LatencyHistogram histogram;
  for (const int64_t ns : {0, 1, 2, 3, 4, 1023, 1024}) {
    histogram.add(nanoseconds(ns));
  }
  EXPECT_EQ(histogram.buckets()[0], 2u);
  EXPECT_EQ(histogram.buckets()[1], 2u);
  EXPECT_EQ(histogram.buckets()[2], 1u);
  EXPECT_EQ(histogram.buckets()[9], 1u);
  EXPECT_EQ(histogram.buckets()[10], 1u);
  EXPECT_EQ(histogram.count(), 7u);
  EXPECT_EQ(histogram.min(), Duration{0});
  EXPECT_EQ(histogram.max(), nanoseconds(1024));
}

TEST(LatencyHistogram, TakesTimesOutOfItsRange) {
  LatencyHistogram histogram;
  histogram.add(std::chrono::hours(5));
  histogram.add(nanoseconds(-7));
  EXPECT_EQ(histogram.buckets().back(), 1u);
  EXPECT_EQ(histogram.buckets().front(), 1u);
  EXPECT_EQ(histogram.percentile(100), std::chrono::hours(5));
}

TEST(LatencyHistogram, APercentileIsTheEndOfItsBucketButNotAboveTheLargest) {
  LatencyHistogram histogram;
  for (int i = 0; i < 99; ++i) histogram.add(nanoseconds(1000));
  histogram.add(nanoseconds(5000));
  EXPECT_EQ(histogram.percentile(50), nanoseconds(1024));
  EXPECT_EQ(histogram.percentile(99), nanoseconds(1024));
  EXPECT_EQ(histogram.percentile(100), nanoseconds(5000));
  EXPECT_EQ(histogram.mean(), nanoseconds(1040));
}

TEST(LatencyHistogram, AddsUp) {
  LatencyHistogram a;
  LatencyHistogram b;
  a.add(nanoseconds(10));
  b.add(nanoseconds(3));
  b.add(nanoseconds(100));
  a.add(b);
  a.add(LatencyHistogram());
  EXPECT_EQ(a.count(), 3u);
  EXPECT_EQ(a.min(), nanoseconds(3));
  EXPECT_EQ(a.max(), nanoseconds(100));
}

TEST(RequestCounts, TellOfTheKindsThatWereSent) {
  RequestCounts counts(3);
  counts.sent(2);
  counts.sent(2);
  counts.refused(2);
  counts.unanswered(2);
  counts.answered(2, microseconds(4));
  counts.sent(3);  // There is no such kind.
  const std::vector<RequestStats> stats =
      counts.stats([](size_t kind) { return std::to_string(kind); });
  ASSERT_THAT(stats, SizeIs(1));
  EXPECT_EQ(stats[0].request, "2");
  EXPECT_EQ(stats[0].sent, 2u);
  EXPECT_EQ(stats[0].refused, 1u);
  EXPECT_EQ(stats[0].unanswered, 1u);
  EXPECT_EQ(stats[0].latency.max(), microseconds(4));
}

TEST(DurationText, HasThreeDigitsAndAUnit) {
  EXPECT_EQ(duration_text(nanoseconds(740)), "740 ns");
  EXPECT_EQ(duration_text(nanoseconds(12340)), "12.3 us");
  EXPECT_EQ(duration_text(microseconds(4560)), "4.56 ms");
  EXPECT_EQ(duration_text(milliseconds(1200)), "1.20 s");
  EXPECT_EQ(since_text(microseconds(1234)), "+1.234 ms");
}

constexpr CallLog::Name kNames[] = {{7, "SEVEN"}, {9, "NINE"}};

TEST(CallLog, TellsOfCallsInTheOrderMade) {
  CallLog log(kNames);
  EXPECT_THAT(log.lines(), IsEmpty());
  const MonotonicTime begin{std::chrono::hours(1)};
  log.add(9, begin, nanoseconds(500), 0);
  log.add(7, begin + microseconds(250), microseconds(3), EBUSY);
  log.add(8, begin + milliseconds(1), microseconds(1), 0);
  EXPECT_THAT(log.lines(), ElementsAre("+0.000 ms NINE (took 500 ns)",
                                       "+0.250 ms SEVEN: EBUSY (took 3 us)",
                                       "+1.000 ms another (took 1 us)"));
  const std::vector<RequestStats> stats = log.stats();
  ASSERT_THAT(stats, SizeIs(3));
  EXPECT_EQ(stats[0].request, "SEVEN");
  EXPECT_EQ(stats[0].refused, 1u);
  EXPECT_EQ(stats[2].request, "another");
}

TEST(CallLog, KeepsTheLast) {
  CallLog log(kNames);
  for (int i = 0; i < 100; ++i) {
    log.add(7, MonotonicTime(milliseconds(i)), nanoseconds(1), 0);
  }
  ASSERT_THAT(log.lines(), SizeIs(CallLog::kKept));
  EXPECT_EQ(log.lines().back(), "+99.000 ms SEVEN (took 1 ns)");
  EXPECT_EQ(log.stats()[0].sent, 100u);
}

}  // namespace
}  // namespace vhost
