// SPDX-License-Identifier: Apache-2.0
//
// The pages that a disk's back-end marks: those it wrote, and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>

#include "tests/peers/daemon.h"
#include "tests/peers/log_guest.h"
#include "tests/peers/process.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using ::testing::IsSubsetOf;
using Pages = LogGuest::Pages;

constexpr uint64_t kPage = 4096;
constexpr uint32_t kRead = 0;
constexpr uint32_t kWrite = 1;

// Source: VIRTIO 1.3, "Block Device", "Device Operation".
struct Header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

class LoggedDisk : public ::testing::TestWithParam<DiskServer> {
 protected:
  // Pages of requests.
  static constexpr uint64_t kHeader = LogGuest::kData;
  static constexpr uint64_t kStatus = LogGuest::kData + kPage;
  static constexpr uint64_t kBuffer = LogGuest::kData + 2 * kPage;

  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    const std::string image = dir_.file("disk.img");
    const std::string socket = dir_.file("disk.sock");
    ASSERT_TRUE(make_image(image, uint64_t{16} << 20).ok());
    auto started = start_disk(GetParam(), image, socket, 2);
    ASSERT_TRUE(started.ok()) << started.status();
    daemon_ = *std::move(started);
    guest_ = std::make_unique<LogGuest>(kDeviceIdBlock, 2, ConnectTo{socket});
    ASSERT_EQ(guest_->init(), absl::OkStatus());
  }

  void transfer(uint32_t queue, uint32_t type, uint64_t gpa, uint32_t size,
                uint64_t status = kStatus) {
    guest_->put(kHeader, Header{type, 0, 0});
    guest_->put(status, uint8_t{0xff});
    const std::array<LogGuest::Part, 3> parts = {
        {{kHeader, sizeof(Header), false},
         {gpa, size, type == kRead},
         {status, 1, true}}};
    const auto written = guest_->request(queue, parts);
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_EQ(*guest_->at(status), std::byte{0});
  }

  TempDir dir_;
  std::unique_ptr<Process> daemon_;
  std::unique_ptr<LogGuest> guest_;
};

TEST_P(LoggedDisk, MarksDataStatusAndUsedRingOfAReadAndNothingElse) {
  ASSERT_EQ(guest_->log_on(), absl::OkStatus());
  ASSERT_EQ(guest_->start(), absl::OkStatus());
  ASSERT_TRUE(guest_->dev().logging());

  // From the middle of one page to the middle of the third behind it.
  transfer(0, kRead, kBuffer + 2048, 3 * kPage);
  ASSERT_EQ(guest_->stop(), absl::OkStatus());

  const uint64_t first = kBuffer / kPage;
  const Pages wrote = {guest_->used_page(0),
                       kStatus / kPage,
                       first,
                       first + 1,
                       first + 2,
                       first + 3};
  EXPECT_EQ(guest_->harvest(), wrote);
  EXPECT_THAT(guest_->harvest(), IsEmpty());
}

TEST_P(LoggedDisk, MarksNoDataOfAWrite) {
  ASSERT_EQ(guest_->log_on(), absl::OkStatus());
  ASSERT_EQ(guest_->start(), absl::OkStatus());

  transfer(1, kWrite, kBuffer, 2 * kPage);
  ASSERT_EQ(guest_->stop(), absl::OkStatus());

  const Pages wrote = {guest_->used_page(1), kStatus / kPage};
  EXPECT_EQ(guest_->harvest(), wrote);
}

TEST_P(LoggedDisk, MarksFromTheMomentTheLogIsOnUntilItIsOff) {
  ASSERT_EQ(guest_->start(), absl::OkStatus());
  for (uint64_t round = 0; round < 3; ++round) {
    const uint64_t before = kBuffer + (16 + 3 * round) * kPage;
    transfer(0, kRead, before, kPage, before + kPage);
    ASSERT_EQ(guest_->log_on(), absl::OkStatus());
    const uint64_t during = kBuffer + round * kPage;
    transfer(0, kRead, during, kPage);

    // A back-end may mark the used ring a moment after it was written.
    const Pages allowed = {guest_->used_page(0), guest_->used_page(1),
                           kStatus / kPage, during / kPage};
    const Pages found = guest_->harvest();
    EXPECT_THAT(found, IsSubsetOf(allowed));
    EXPECT_TRUE(found.contains(during / kPage));
    EXPECT_TRUE(found.contains(kStatus / kPage));

    guest_->log_off();
    ASSERT_EQ(guest_->context().run_until_log_settled(kPatience),
              absl::OkStatus());
    EXPECT_FALSE(guest_->dev().logging());
    transfer(0, kRead, before, kPage, before + kPage);
  }
  EXPECT_EQ(guest_->stop(), absl::OkStatus());
}

TEST_P(LoggedDisk, MarksMemoryThatWasAddedWhileItLogs) {
  ASSERT_EQ(guest_->start(), absl::OkStatus());
  ASSERT_EQ(guest_->log_on(), absl::OkStatus());
  transfer(0, kRead, kBuffer, kPage);
  const uint64_t small = guest_->context().log().size();

  ASSERT_TRUE(guest_->plug_far().ok());
  EXPECT_GT(guest_->context().log().size(), small);
  transfer(0, kRead, LogGuest::kFar + kPage, kPage);
  ASSERT_EQ(guest_->stop(), absl::OkStatus());

  const Pages wrote = {guest_->used_page(0), kStatus / kPage, kBuffer / kPage,
                       LogGuest::kFar / kPage + 1};
  EXPECT_EQ(guest_->harvest(), wrote);
  EXPECT_THAT(guest_->harvest(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Peers, LoggedDisk, ::testing::Values(DiskServer::kQemu, DiskServer::kModel),
    [](const auto& param_info) {
      return param_info.param == DiskServer::kQemu ? "Qemu" : "Model";
    });

}  // namespace
}  // namespace vhost::testing
