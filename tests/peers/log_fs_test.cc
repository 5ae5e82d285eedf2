// SPDX-License-Identifier: Apache-2.0
//
// The pages that a file system's back-end marks: those it wrote, and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>

#include <array>
#include <memory>

#include "tests/peers/fs_server.h"
#include "tests/peers/log_guest.h"
#include "tests/peers/process.h"
#include "tests/peers/test_fs.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using Pages = LogGuest::Pages;

constexpr uint64_t kPage = 4096;
constexpr uint32_t kRequests = 1;  // The first queue that is not for FORGET.

class LoggedFs : public ::testing::TestWithParam<FsServer> {
 protected:
  static constexpr uint64_t kIn = LogGuest::kData;
  static constexpr uint64_t kOutHeader = LogGuest::kData + kPage;
  static constexpr uint64_t kOut = LogGuest::kData + 2 * kPage;

  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    const std::string socket = dir_.file("fs.sock");
    auto started = start_fs(GetParam(), tree_.path(), socket);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    guest_ = std::make_unique<LogGuest>(kDeviceIdFs, 2, ConnectTo{socket});
    ASSERT_EQ(guest_->init(), absl::OkStatus());
  }

  // FUSE_INIT: its answer comes in two buffers.
  void greet() {
    fuse_in_header header = {};
    header.len = sizeof(fuse_in_header) + 16;
    header.opcode = FUSE_INIT;
    header.unique = 1;
    guest_->put(kIn, header);
    guest_->put(kIn + sizeof(header), std::array<uint32_t, 4>{7, 31, 0, 0});
    const std::array<LogGuest::Part, 3> parts = {
        {{kIn, header.len, false},
         {kOutHeader, sizeof(fuse_out_header), true},
         {kOut, 64, true}}};
    const auto written = guest_->request(kRequests, parts);
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_GT(*written, sizeof(fuse_out_header));
    EXPECT_EQ(*guest_->at(kOut), std::byte{7});
  }

  TempDir dir_;
  TestTree tree_{dir_};
  std::unique_ptr<Process> server_;
  std::unique_ptr<LogGuest> guest_;
};

TEST_P(LoggedFs, MarksAnswerAndUsedRingOfARequestAndNothingElse) {
  ASSERT_EQ(guest_->log_on(), absl::OkStatus());
  ASSERT_EQ(guest_->start(), absl::OkStatus());

  greet();
  ASSERT_EQ(guest_->stop(), absl::OkStatus());

  const Pages wrote = {guest_->used_page(kRequests), kOutHeader / kPage,
                       kOut / kPage};
  EXPECT_EQ(guest_->harvest(), wrote);
  EXPECT_THAT(guest_->harvest(), IsEmpty());
}

TEST_P(LoggedFs, MarksWhatItWritesAfterTheLogWasTurnedOn) {
  ASSERT_EQ(guest_->start(), absl::OkStatus());
  ASSERT_EQ(guest_->log_on(), absl::OkStatus());

  greet();
  ASSERT_EQ(guest_->stop(), absl::OkStatus());

  const Pages wrote = {guest_->used_page(kRequests), kOutHeader / kPage,
                       kOut / kPage};
  EXPECT_EQ(guest_->harvest(), wrote);
}

INSTANTIATE_TEST_SUITE_P(Peers, LoggedFs,
                         ::testing::Values(FsServer::kQemu, FsServer::kRust),
                         [](const auto& param_info) {
                           return param_info.param == FsServer::kQemu ? "Qemu"
                                                                      : "Rust";
                         });

}  // namespace
}  // namespace vhost::testing
