// SPDX-License-Identifier: Apache-2.0
//
// vhostctl blk verify and check-file.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
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

// A disk that does not do quite what it is asked.
class LyingDisk : public ModelDevice {
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

 protected:
  absl::StatusOr<uint32_t> do_it(const ModelRequest& request) {
    return disk_->handle(request);
  }

  // The sector of a write; empty: it is none.
  static std::optional<uint64_t> written_sector(const ModelRequest& request) {
    struct Header {
      uint32_t type;
      uint32_t reserved;
      uint64_t sector;
    } header = {};
    copy_from(request.readable, std::as_writable_bytes(std::span(&header, 1)));
    if (header.type != 1) return std::nullopt;
    return header.sector;
  }

 private:
  std::unique_ptr<ModelBlk> disk_;
};

// Changes one bit of one block on its way back.
class FlippingDisk final : public LyingDisk {
 public:
  using LyingDisk::LyingDisk;

  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override {
    const auto written = do_it(request);
    const bool is_read =
        !request.writable.empty() && total_size(request.writable) > 512;
    if (is_read && !lied_) {
      request.writable.front().host[100] ^= std::byte{1};
      lied_ = true;
    }
    return written;
  }

 private:
  bool lied_ = false;
};

// Forgets every second write of a sector.
class ForgetfulDisk final : public LyingDisk {
 public:
  using LyingDisk::LyingDisk;

  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override {
    const std::optional<uint64_t> sector = written_sector(request);
    if (!sector.has_value() || ++writes_[*sector] % 2 != 0) {
      return do_it(request);
    }
    *request.writable.front().host = std::byte{};
    return 1;
  }

 private:
  std::map<uint64_t, uint64_t> writes_;  // By sector.
};

// Carries the first write of a sector out once more after each from the third
// on.
class RepeatingDisk final : public LyingDisk {
 public:
  using LyingDisk::LyingDisk;

  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override {
    const absl::StatusOr<uint32_t> done = do_it(request);
    const std::optional<uint64_t> sector = written_sector(request);
    if (!sector.has_value()) return done;
    Write& write = writes_[*sector];
    if (++write.count == 1) {
      write.first.resize(total_size(request.readable));
      copy_from(request.readable, write.first);
    } else if (write.count >= 3) {
      ModelRequest again = request;
      again.readable = {
          {write.first.data(), static_cast<uint32_t>(write.first.size()), 0}};
      EXPECT_TRUE(do_it(again).ok());
    }
    return done;
  }

 private:
  struct Write {
    int count = 0;
    std::vector<std::byte> first;
  };
  std::map<uint64_t, Write> writes_;
};

// A disk of this kind, in memory.
template <typename Disk>
std::unique_ptr<ModelDevice> lying_disk(uint64_t size) {
  return std::make_unique<Disk>(ModelBlk::on_memory(size).value());
}

TEST_F(ModelDisk, ThatLiesIsFoundOut) {
  serve(lying_disk<FlippingDisk>(kSize));
  const Finished run =
      vhostctl({"blk", "verify", "--socket", socket(), "--json"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_EQ(document(run.out)["mismatches"], 1);
  EXPECT_TRUE(is_error_line(run.err, "DATA_LOSS"));
}

TEST_F(ModelDisk, PassesAVerificationByJournal) {
  serve();
  const Finished run = vhostctl({"blk", "verify", "--socket", socket(),
                                 "--queues=4", "--reconnect", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json result = document(run.out);
  EXPECT_GT(result["bytes"], kSize / 2);
  EXPECT_GE(result["writes"], 2 * kSize / 4096);
  for (const char* none :
       {"mismatches", "lost", "stale", "torn", "misplaced", "doubled",
        "in_doubt", "reconnections", "needs_resets", "longest_outage_us"}) {
    EXPECT_EQ(result[none], 0) << none;
  }
  const Finished text = vhostctl(
      {"blk", "verify", "--socket", socket(), "--size=64K", "--reconnect"});
  EXPECT_EQ(text.exit, 0) << text.err;
  EXPECT_NE(text.out.find("0 reconnections, 0 with a reset"),
            std::string::npos);
}

TEST_F(ModelDisk, ThatLiesIsFoundOutByJournal) {
  struct Liar {
    std::unique_ptr<ModelDevice> disk;
    const char* fault;
  };
  // So small that each block is written often.
  constexpr uint64_t kSmall = uint64_t{64} << 10;
  std::vector<Liar> liars;
  liars.push_back({lying_disk<FlippingDisk>(kSmall), "torn"});
  liars.push_back({lying_disk<ForgetfulDisk>(kSmall), "stale"});
  liars.push_back({lying_disk<RepeatingDisk>(kSmall), "doubled"});
  for (Liar& liar : liars) {
    SCOPED_TRACE(liar.fault);
    backend_ = nullptr;
    serve(std::move(liar.disk));
    const Finished run = vhostctl({"blk", "verify", "--socket", socket(),
                                   "--reconnect", "--seconds=2", "--json"});
    EXPECT_EQ(run.exit, 1);
    EXPECT_TRUE(is_error_line(run.err, "DATA_LOSS")) << run.err;
    const nlohmann::json result = document(run.out);
    EXPECT_GT(result[liar.fault], 0) << result;
    EXPECT_TRUE(result["first_mismatch"].is_string());
  }
}

TEST_F(ModelDisk, ThatNeverComesIsNotWaitedForBeyondTheTimeout) {
  const Finished run =
      vhostctl({"blk", "verify", "--socket", socket(), "--reconnect",
                "--reconnect-timeout=1", "--timeout=0.2"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE")) << run.err;
}

}  // namespace
}  // namespace vhost::testing
