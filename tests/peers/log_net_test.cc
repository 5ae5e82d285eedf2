// SPDX-License-Identifier: Apache-2.0
//
// The pages that dpdk-testpmd marks: those it wrote, and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "tests/peers/log_guest.h"
#include "tests/peers/process.h"
#include "tests/peers/testpmd.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using Pages = LogGuest::Pages;

constexpr uint64_t kPage = 4096;
constexpr uint32_t kReceive = 0;
constexpr uint32_t kSend = 1;
constexpr uint32_t kHeader = 12;  // Bytes, since VERSION_1.
constexpr uint32_t kFrame = 1000;

class LoggedNet : public ::testing::Test {
 protected:
  // Buffers: for arrivals, from the end of one page into the next.
  static constexpr uint64_t kArrival = LogGuest::kData + kPage - 500;
  static constexpr uint64_t kSpare = LogGuest::kData + 4 * kPage;
  static constexpr uint64_t kOut = LogGuest::kData + 8 * kPage;

  void SetUp() override {
    const absl::Status installed = Testpmd::check_installed();
    if (!installed.ok()) GTEST_SKIP() << installed;
    auto started = Testpmd::start(dir_, {});
    ASSERT_TRUE(started.ok()) << started.status();
    testpmd_ = *std::move(started);
    for (uint32_t port = 0; port < 2; ++port) {
      guests_[port] =
          std::make_unique<LogGuest>(kDeviceIdNet, 2, testpmd_->address(port));
      ASSERT_EQ(guests_[port]->init(), absl::OkStatus());
    }
  }

  // One frame from guest 0 to guest 1, which has two buffers for it.
  void send_one() {
    for (const uint64_t gpa : {kArrival, kSpare}) {
      const std::array<LogGuest::Part, 1> parts = {{{gpa, 2048, true}}};
      ASSERT_EQ(guests_[1]->offer(kReceive, parts), absl::OkStatus());
    }
    const std::array<LogGuest::Part, 1> parts = {
        {{kOut, kHeader + kFrame, false}}};
    for (uint32_t i = 0; i < kFrame; ++i) {
      guests_[0]->put(kOut + kHeader + i, static_cast<uint8_t>(i));
    }
    const auto sent = guests_[0]->request(kSend, parts);
    ASSERT_TRUE(sent.ok()) << sent.status();
    const auto arrived = guests_[1]->complete(kReceive);
    ASSERT_TRUE(arrived.ok()) << arrived.status();
    EXPECT_EQ(*arrived, kHeader + kFrame);
    EXPECT_EQ(*guests_[1]->at(kArrival + kHeader + 700), std::byte{700 % 256});
  }

  void stop_and_compare() {
    for (const auto& guest : guests_) {
      ASSERT_EQ(guest->stop(), absl::OkStatus());
    }
    const Pages sender = {guests_[0]->used_page(kSend)};
    EXPECT_EQ(guests_[0]->harvest(), sender);
    const Pages receiver = {guests_[1]->used_page(kReceive), kArrival / kPage,
                            kArrival / kPage + 1};
    EXPECT_EQ(guests_[1]->harvest(), receiver);
    for (const auto& guest : guests_) EXPECT_THAT(guest->harvest(), IsEmpty());
  }

  TempDir dir_;
  std::unique_ptr<Testpmd> testpmd_;
  std::array<std::unique_ptr<LogGuest>, 2> guests_;
};

TEST_F(LoggedNet, MarksTheFrameAndItsUsedRingAndNothingElse) {
  for (const auto& guest : guests_) {
    ASSERT_EQ(guest->log_on(), absl::OkStatus());
    ASSERT_EQ(guest->start(), absl::OkStatus());
  }
  send_one();
  stop_and_compare();
}

// The device has a status: turning the log on must not take DRIVER_OK back.
TEST_F(LoggedNet, MarksTheFrameThatCameAfterTheLogWasTurnedOn) {
  for (const auto& guest : guests_) {
    ASSERT_EQ(guest->start(), absl::OkStatus());
    ASSERT_TRUE(guest->dev().traits().has_status);
    ASSERT_EQ(guest->log_on(), absl::OkStatus());
  }
  send_one();
  stop_and_compare();
}

}  // namespace
}  // namespace vhost::testing
