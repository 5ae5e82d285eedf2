// SPDX-License-Identifier: Apache-2.0
// A back-end that lies about requests, through a whole device: driver, device,
// socket and a model on a thread of its own.
#include <chrono>
#include <string>
#include <thread>

#include "tests/badinput/footprint.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"

namespace vhost::badinput {
namespace {

using ::testing::HasSubstr;
using testing::ModelFault;
using testing::TestDisk;

constexpr uint64_t kDiskSize = 1 << 20;
constexpr uint64_t kPiece = 4096;
// None of this waits; for a machine that does something else.
constexpr Duration kLimit = std::chrono::seconds(10);

struct Lie {
  const char* name;
  ModelFault fault;
  const char* cause;
};

class RingLie : public ::testing::TestWithParam<Lie> {
 protected:
  // A disk whose back-end lies about the request after `truths` true ones.
  void open(uint64_t truths) {
    auto made = testing::ModelBlk::on_memory(kDiskSize);
    ASSERT_TRUE(made.ok()) << made.status();
    model_disk_ = *std::move(made);
    testing::ModelOptions options;
    options.fault = GetParam().fault;
    options.fault_after = truths;
    model_ = std::make_unique<testing::ModelBackend>(model_disk_.get(),
                                                     std::move(options));
    ASSERT_TRUE(model_->listen_on(dir_.file("disk.sock")).ok());
    ASSERT_TRUE(model_->start_thread().ok());
    auto opened = TestDisk::open(dir_.file("disk.sock"), 1);
    ASSERT_TRUE(opened.ok()) << opened.status();
    disk_ = *std::move(opened);
  }
  absl::Status read(uint64_t piece) {
    auto buffer = disk_->vm().dma.allocate(kPiece, 4096);
    if (!buffer.ok()) return buffer.status();
    return disk_->transfer(BlkOp::kRead, piece * kPiece, buffer->span());
  }
  void close() {
    disk_.reset();
    model_.reset();
    model_disk_.reset();
  }

  const std::chrono::steady_clock::time_point began_ =
      std::chrono::steady_clock::now();
  testing::TempDir dir_;
  std::unique_ptr<testing::ModelBlk> model_disk_;
  std::unique_ptr<testing::ModelBackend> model_;
  std::unique_ptr<TestDisk> disk_;
};

TEST_P(RingLie, EndsTheRequestAndNamesQueueAndCause) {
  const Footprint before = Footprint::now();
  ASSERT_NO_FATAL_FAILURE(open(0));

  const absl::Status status = read(0);

  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("vq 0: "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().cause));
  EXPECT_EQ(disk_->client().in_flight(), 0u);
  EXPECT_FALSE(read(1).ok()) << "the queue is broken";
  close();
  EXPECT_EQ(Footprint::now(), before);
  EXPECT_LT(std::chrono::steady_clock::now() - began_, kLimit);
}

TEST_P(RingLie, AfterManyTruthsIsFoundAllTheSame) {
  constexpr uint64_t kTruths = 300;  // More than the ring has descriptors.
  ASSERT_NO_FATAL_FAILURE(open(kTruths));
  for (uint64_t i = 0; i < kTruths; ++i) {
    const absl::Status status = read(i % (kDiskSize / kPiece));
    ASSERT_TRUE(status.ok()) << i << ": " << status;
  }
  EXPECT_EQ(read(0).code(), absl::StatusCode::kDataLoss);
  close();
  EXPECT_LT(std::chrono::steady_clock::now() - began_, kLimit);
}

// What such a back-end says about the end is not believed, and does not hold
// anybody up.
TEST_P(RingLie, DoesNotHoldUpAStop) {
  ASSERT_NO_FATAL_FAILURE(open(0));
  EXPECT_FALSE(read(0).ok());
  const auto stopped = disk_->driver().stop(VirtioDriver::StopMode::kCancel,
                                            std::chrono::milliseconds(200));
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  const absl::Status& status = stopped->status;
  EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
  if (!status.ok()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("stop: vq 0: "));
  }
  EXPECT_EQ(stopped->returned.size(), 1u) << "the request, once";
  close();
  EXPECT_LT(std::chrono::steady_clock::now() - began_, kLimit);
}

INSTANTIATE_TEST_SUITE_P(
    About, RingLie,
    ::testing::Values(
        Lie{"TheUsedIndex", ModelFault::kUsedIndex,
            "device moved the used index by "},
        Lie{"ADescriptor", ModelFault::kUsedId, "device completed descriptor "},
        Lie{"ARequestThatIsNotInFlight", ModelFault::kUsedTwice,
            "where no request is in flight"},
        Lie{"TheLength", ModelFault::kLength, "device wrote 4098 bytes"}),
    [](const ::testing::TestParamInfo<Lie>& info) {
      return std::string(info.param.name);
    });

}  // namespace
}  // namespace vhost::badinput
