// SPDX-License-Identifier: Apache-2.0
//
// vhostctl blk verify and check-file.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/tools/program.h"

namespace vhost::testing {
namespace {

constexpr Duration kSlack = std::chrono::seconds(3);

TEST_F(ModelDisk, PassesAVerificationInOnePass) {
  serve();
  const Finished run =
      vhostctl({"blk", "verify", "--socket", socket(), "--queues=4", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json result = document(run.out);
  EXPECT_EQ(result["bytes"], kSize);
  EXPECT_EQ(result["mismatches"], 0);
  EXPECT_EQ(result["passes"], 1);
  EXPECT_GT(result["iops"], 0);
  const nlohmann::json& latency = result["latency_us"];
  EXPECT_LE(latency["min"], latency["p50"]);
  EXPECT_LE(latency["p50"], latency["p99"]);
  EXPECT_LE(latency["p99"], latency["max"]);
  EXPECT_GT(latency["max"], 0);
}

TEST_F(ModelDisk, IsVerifiedOnlyAsFarAsAsked) {
  serve();
  const Finished run = vhostctl({"blk", "verify", "--socket", socket(),
                                 "--size=1M", "--seed=5", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json result = document(run.out);
  EXPECT_EQ(result["bytes"], 1 << 20);
  EXPECT_EQ(result["seed"], 5);
}

TEST_F(ModelDisk, IsVerifiedAgainAndAgainForSomeTime) {
  serve();
  const Finished run = vhostctl({"blk", "verify", "--socket", socket(),
                                 "--size=64K", "--seconds=0.5", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json result = document(run.out);
  EXPECT_GT(result["passes"], 1);
  EXPECT_GE(result["seconds"], 0.5);
  EXPECT_LT(run.took, std::chrono::milliseconds(500) + kSlack);
}

TEST_F(ModelDisk, HasItsPatternInTheFileToo) {
  const std::string path = dir_.file("image");
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(file.get(), kSize), 0);
  auto disk = ModelBlk::on_file(std::move(file));
  ASSERT_TRUE(disk.ok()) << disk.status();
  serve(*std::move(disk));
  ASSERT_EQ(vhostctl({"blk", "verify", "--socket", socket(), "--seed=9"}).exit,
            0);
  const Finished same =
      vhostctl({"blk", "check-file", "--input", path, "--seed=9", "--json"});
  EXPECT_EQ(same.exit, 0) << same.err;
  EXPECT_EQ(document(same.out)["bytes"], kSize);
  const Finished other =
      vhostctl({"blk", "check-file", "--input", path, "--seed=8", "--json"});
  EXPECT_EQ(other.exit, 1);
  EXPECT_EQ(document(other.out)["mismatches"], kSize / 512);
}

// A disk that changes one bit of one block on its way back.
class LyingDisk final : public ModelDevice {
 public:
  explicit LyingDisk(std::unique_ptr<ModelBlk> disk) : disk_(std::move(disk)) {}

  uint32_t device_id() const override { return disk_->device_id(); }
  FeatureSet features() const override { return disk_->features(); }
  void accept_features(FeatureSet accepted) override {
    disk_->accept_features(accepted);
  }
  std::vector<std::byte> config() const override { return disk_->config(); }
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override {
    return disk_->write_config(offset, bytes, migration);
  }
  void reset() override { disk_->reset(); }

  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override {
    const auto written = disk_->handle(request);
    const bool is_read =
        !request.writable.empty() && total_size(request.writable) > 512;
    if (is_read && !lied_) {
      request.writable.front().host[100] ^= std::byte{1};
      lied_ = true;
    }
    return written;
  }

 private:
  std::unique_ptr<ModelBlk> disk_;
  bool lied_ = false;
};

TEST_F(ModelDisk, ThatLiesIsFoundOut) {
  auto disk = ModelBlk::on_memory(kSize);
  ASSERT_TRUE(disk.ok());
  serve(std::make_unique<LyingDisk>(*std::move(disk)));
  const Finished run =
      vhostctl({"blk", "verify", "--socket", socket(), "--json"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_EQ(document(run.out)["mismatches"], 1);
  EXPECT_TRUE(is_error_line(run.err, "DATA_LOSS"));
}

}  // namespace
}  // namespace vhost::testing
