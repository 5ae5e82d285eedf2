// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/latency.h"

#include <gtest/gtest.h>

namespace vhost::ctl {
namespace {

TEST(LatencyHistogram, IsAllZeroWithoutASample) {
  const LatencyHistogram latency;
  EXPECT_EQ(latency.count(), 0u);
  EXPECT_EQ(latency.min(), Duration(0));
  EXPECT_EQ(latency.max(), Duration(0));
  EXPECT_EQ(latency.mean(), Duration(0));
  EXPECT_EQ(latency.percentile(99), Duration(0));
}

TEST(LatencyHistogram, OneSampleIsEverything) {
  LatencyHistogram latency;
  latency.add(Duration(123456789));
  EXPECT_EQ(latency.min(), Duration(123456789));
  EXPECT_EQ(latency.percentile(0), Duration(123456789));
  EXPECT_EQ(latency.percentile(50), Duration(123456789));
  EXPECT_EQ(latency.max(), Duration(123456789));
}

TEST(LatencyHistogram, PercentilesAreRightToTwoPercent) {
  LatencyHistogram latency;
  for (int64_t us = 1; us <= 100000; ++us) latency.add(Duration(us * 1000));
  const double p50 = static_cast<double>(latency.percentile(50).count());
  const double p99 = static_cast<double>(latency.percentile(99).count());
  EXPECT_NEAR(p50, 50'000'000, 1'000'000);
  EXPECT_NEAR(p99, 99'000'000, 2'000'000);
  EXPECT_EQ(latency.mean(), Duration(50'000'500));
}

TEST(LatencyHistogram, ASingleSlowOneIsTheMaximumButNotTheMedian) {
  LatencyHistogram latency;
  for (int i = 0; i < 999; ++i) latency.add(Duration(1000));
  latency.add(std::chrono::seconds(1));
  EXPECT_LT(latency.percentile(99.9), Duration(1100));
  EXPECT_EQ(latency.percentile(100), std::chrono::seconds(1));
  EXPECT_EQ(latency.max(), std::chrono::seconds(1));
}

TEST(LatencyHistogram, TakesTheShortestAndTheLongestThereAre) {
  LatencyHistogram latency;
  latency.add(Duration(-1));  // A clock that stood still, at worst.
  latency.add(Duration(0));
  latency.add(Duration::max());
  EXPECT_EQ(latency.min(), Duration(0));
  EXPECT_EQ(latency.max(), Duration::max());
  EXPECT_EQ(latency.percentile(100), Duration::max());
}

TEST(LatencyHistogram, SmallValuesAreExact) {
  LatencyHistogram latency;
  for (int ns = 1; ns <= 63; ++ns) latency.add(Duration(ns));
  EXPECT_EQ(latency.percentile(50), Duration(32));
}

}  // namespace
}  // namespace vhost::ctl
