// SPDX-License-Identifier: Apache-2.0
//
// Real file system back-ends: what they share is read and compared.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tests/fakes/ops_driver.h"
#include "tests/peers/fs_server.h"
#include "tests/peers/process.h"
#include "tests/peers/test_fs.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Values;

class RealFs : public ::testing::TestWithParam<FsServer> {
 protected:
  void SetUp() override {
    const absl::Status installed = check_installed(GetParam());
    if (!installed.ok()) GTEST_SKIP() << installed;
    ASSERT_NO_FATAL_FAILURE(start_server());
    auto made = TestFs::create();
    ASSERT_TRUE(made.ok()) << made.status();
    fs_ = *std::move(made);
  }

  void start_server() {
    auto started = start_fs(GetParam(), tree_.path(), socket());
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  void connect() {
    const absl::Status connected = fs_->connect(socket());
    ASSERT_TRUE(connected.ok()) << connected;
  }
  bool still_runs() { return !server_->wait(Duration(0)).has_value(); }
  std::string socket() const { return dir_.file("fs.sock"); }

  // A back-end without a VhostDev around it, connected.
  std::unique_ptr<VhostOps> open_ops() {
    auto ops = make_vhost_user_ops(ConnectTo{socket()});
    ops->attach(nullptr, &sink_);
    EXPECT_EQ(drive_status(*ops, Open{}), absl::OkStatus());
    FeatureSet features = {kFeatureVersion1};
    EXPECT_EQ(drive_status(*ops, SetFeatures{features}), absl::OkStatus());
    return ops;
  }

  TempDir dir_;
  TestTree tree_{dir_};
  CountingSink sink_;
  std::unique_ptr<Process> server_;
  std::unique_ptr<TestFs> fs_;
};

TEST_P(RealFs, AgreesOnAVersionAndLimitsWithoutAConfigurationSpace) {
  ASSERT_NO_FATAL_FAILURE(connect());
  const FsSession& session = fs_->client().session();
  EXPECT_EQ(session.major, 7u);
  EXPECT_EQ(session.minor, 31u);
  EXPECT_GE(session.max_read, 128u << 10);
  EXPECT_GE(session.max_write, 64u << 10);
  EXPECT_TRUE(fs_->driver().has(kFeatureEventIdx));
  EXPECT_TRUE(fs_->driver().has(kFeatureIndirectDesc));
  EXPECT_EQ(fs_->driver().options().config_size, 0u);
}

TEST_P(RealFs, HasTheFilesOfItsFolder) {
  ASSERT_NO_FATAL_FAILURE(connect());
  for (const std::string file : TestTree::kFiles) {
    for (const uint64_t piece : {uint64_t{128} << 10, uint64_t{5000}}) {
      const auto got = fs_->read_file(file, piece);
      ASSERT_TRUE(got.ok()) << file << ": " << got.status();
      EXPECT_TRUE(*got == TestTree::contents_of(file)) << file;
    }
  }
  EXPECT_EQ(fs_->stop(), absl::OkStatus());
}

TEST_P(RealFs, HasTheAttributesThatTheHostSees) {
  ASSERT_NO_FATAL_FAILURE(connect());
  std::vector<std::string> names(std::begin(TestTree::kFiles),
                                 std::end(TestTree::kFiles));
  names.insert(names.end(), std::begin(TestTree::kFolders),
               std::end(TestTree::kFolders));
  for (const std::string& name : names) {
    struct stat host = {};
    ASSERT_EQ(::stat(tree_.path_of(name).c_str(), &host), 0);
    const auto node = fs_->client().lookup(name);
    ASSERT_TRUE(node.ok()) << node.status();
    const FsAttributes& got = node->attributes;
    EXPECT_EQ(got.mode, host.st_mode) << name;
    EXPECT_EQ(got.inode, host.st_ino) << name;
    EXPECT_EQ(got.links, host.st_nlink) << name;
    EXPECT_EQ(got.mtime, static_cast<uint64_t>(host.st_mtim.tv_sec)) << name;
    EXPECT_EQ(got.size, static_cast<uint64_t>(host.st_size)) << name;
    const auto again = fs_->client().get_attributes(node->id);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->size, got.size);
  }
}

TEST_P(RealFs, AnswersManyReadsAtOnce) {
  constexpr uint64_t kPiece = 16 << 10;
  ASSERT_NO_FATAL_FAILURE(connect());
  const FsNode node = fs_->client().lookup(TestTree::kLarge).value();
  const uint64_t handle = fs_->client().open(node.id).value();
  const uint64_t pieces = (node.attributes.size + kPiece - 1) / kPiece;
  const DmaBuffer data = fs_->vm().dma.allocate(pieces * kPiece).value();
  std::array<FsCompletion, 8> done;
  uint64_t submitted = 0;
  uint64_t bytes = 0;
  for (uint64_t completed = 0; completed < pieces;) {
    while (submitted < pieces && fs_->client().in_flight() < kFsDepth) {
      const DmaSpan to = data.span().subspan(submitted * kPiece, kPiece);
      ASSERT_TRUE(fs_->client()
                      .submit({.op = FsOp::kRead,
                               .node = node.id,
                               .handle = handle,
                               .offset = submitted * kPiece,
                               .buffers = std::span(&to, 1)})
                      .ok());
      ++submitted;
    }
    const size_t count = fs_->client().wait(done);
    ASSERT_GE(count, 1u);
    for (const FsCompletion& one : std::span(done).first(count)) {
      ASSERT_TRUE(one.status.ok()) << one.status;
      bytes += one.bytes;
    }
    completed += count;
  }
  EXPECT_EQ(bytes, node.attributes.size);
  EXPECT_TRUE(std::string(reinterpret_cast<const char*>(data.data()), bytes) ==
              TestTree::contents_of(TestTree::kLarge));
}

TEST_P(RealFs, RefusesWithTheErrorsOfAFileSystem) {
  ASSERT_NO_FATAL_FAILURE(connect());
  FsClient& client = fs_->client();
  EXPECT_TRUE(absl::IsNotFound(client.lookup("a/none").status()));
  EXPECT_TRUE(absl::IsAborted(client.lookup("hello/x").status())) << "ENOTDIR";
  EXPECT_TRUE(absl::IsAborted(client.get_attributes(4711).status()));
  EXPECT_TRUE(absl::IsAborted(client.open(4711).status()));
  const FsNode node = client.lookup("hello").value();
  const DmaBuffer data = fs_->vm().dma.allocate(4096).value();
  EXPECT_FALSE(client.read(node.id, 4711, 0, data.span()).ok());
  EXPECT_EQ(client.status(), absl::OkStatus());
  EXPECT_EQ(fs_->read_file("hello", 4096).value(), "This is hello.\n");
}

TEST_P(RealFs, ForgetsWhatItIsTold) {
  ASSERT_NO_FATAL_FAILURE(connect());
  FsClient& client = fs_->client();
  const uint64_t node = client.lookup("hello").value().id;
  ASSERT_EQ(client.lookup("hello").value().id, node);
  ASSERT_TRUE(client.forget(node).ok());
  EXPECT_TRUE(client.get_attributes(node).ok()) << "held once more";
  ASSERT_TRUE(client.forget(node).ok());
  EXPECT_FALSE(client.get_attributes(node).ok());
}

TEST_P(RealFs, StopsAndStartsOnOneConnection) {
  ASSERT_NO_FATAL_FAILURE(connect());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(fs_->read_file("hello", 4096).value_or(""), "This is hello.\n");
    ASSERT_EQ(fs_->stop(), absl::OkStatus());
    const absl::Status started = fs_->start();
    ASSERT_TRUE(started.ok()) << started;
  }
  EXPECT_TRUE(still_runs());
}

// virtiofsd of QEMU 7.2 aborts when a ring that never ran is taken back.
TEST_P(RealFs, SurvivesResetsAndStopsWithoutAStart) {
  fs_->attach(socket());
  for (int i = 0; i < 3; ++i) {
    const auto reset = fs_->driver().reset(kFsWantedFeatures);
    ASSERT_TRUE(reset.ok()) << reset.status();
    ASSERT_EQ(fs_->stop(), absl::OkStatus());
  }
  EXPECT_TRUE(still_runs());
  const absl::Status started = fs_->start();
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(fs_->read_file("hello", 4096).value_or(""), "This is hello.\n");
}

TEST_P(RealFs, EndsWithItsFrontEndAndASuccessorServesTheNext) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_NO_FATAL_FAILURE(connect());
    EXPECT_EQ(fs_->read_file("hello", 4096).value_or(""), "This is hello.\n");
    if (i == 1) {
      EXPECT_EQ(fs_->stop(), absl::OkStatus());
    }
    fs_->disconnect();
    ASSERT_EQ(server_->wait(kPatience), 0);
    ASSERT_NO_FATAL_FAILURE(start_server());
  }
}

TEST_P(RealFs, ResetsTheDeviceOnRequestWhereItOffersThat) {
  const auto ops = open_ops();
  const bool offered = GetParam() == FsServer::kRust;
  ASSERT_EQ(ops->traits().has_reset, offered);
  const uint64_t sent = ops->counters().messages;
  const absl::Status reset = drive_status(*ops, ResetDevice{});
  if (offered) {
    EXPECT_EQ(reset, absl::OkStatus());
    EXPECT_GT(ops->counters().messages, sent);
  } else {
    EXPECT_TRUE(absl::IsUnimplemented(reset)) << reset;
    EXPECT_EQ(ops->counters().messages, sent);
  }
  EXPECT_TRUE(still_runs());
}

// A reset forgets what the guest had: the session and its nodes.
TEST_P(RealFs, ResetsWhileItRunsAndBeginsAgain) {
  ASSERT_NO_FATAL_FAILURE(connect());
  ASSERT_TRUE(fs_->client().lookup("a/b").ok());
  const absl::Status again = fs_->start();
  ASSERT_TRUE(again.ok()) << again;
  EXPECT_EQ(fs_->read_file("hello", 4096).value_or(""), "This is hello.\n");
}

TEST_P(RealFs, RefusesRingsOutsideOfMemoryByName) {
  Guest guest(2);
  const auto ops = open_ops();
  Configure configure = guest.configure();
  VringAddresses& addr = configure.queues[1].addr;
  addr.used.user += Guest::kSize;
  const absl::Status refused = drive_status(*ops, std::move(configure));
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("SET_VRING_ADDR vq 1"))
      << refused;
  EXPECT_TRUE(server_->wait(kPatience).has_value()) << "both end over it";
}

TEST_P(RealFs, RefusesAMemoryRegionThatItDoesNotHave) {
  Guest guest(2);
  const auto ops = open_ops();
  ASSERT_EQ(drive_status(*ops, guest.configure()), absl::OkStatus());
  MemoryTableEntry other = guest.table()[0];
  other.gpa += Guest::kSize;
  other.user += Guest::kSize;
  MemoryDiff diff;
  diff.removed.push_back(other);
  const absl::Status refused =
      drive_status(*ops, UpdateMemory{std::move(diff)});
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.message()), HasSubstr("REM_MEM_REG"));
}

class RealFsTool : public RealFs {};

TEST_P(RealFsTool, TellsVersionAndLimits) {
  const Finished run =
      run_program({"vhostctl", "fs", "init", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const auto got = nlohmann::json::parse(run.out, nullptr, false);
  ASSERT_TRUE(got.is_object()) << run.out;
  EXPECT_EQ(got["version"], "7.31");
  EXPECT_GE(got["max_write"], 64 << 10);
  EXPECT_EQ(server_->wait(kPatience), 0);
}

TEST_P(RealFsTool, CopiesAFile) {
  const Finished run = run_program({"vhostctl", "fs", "cat", "--socket",
                                    socket(), "--file", TestTree::kLarge});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_TRUE(run.out == TestTree::contents_of(TestTree::kLarge));
}

TEST_P(RealFsTool, SaysThatThereIsNoSuchFile) {
  const Finished run = run_program(
      {"vhostctl", "fs", "cat", "--socket", socket(), "--file", "nothing"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, AllOf(HasSubstr("NOT_FOUND"), HasSubstr("nothing")));
  EXPECT_EQ(server_->wait(kPatience), 0);
}

std::string name_of_info(const ::testing::TestParamInfo<FsServer>& info) {
  return name_of(info.param);
}

INSTANTIATE_TEST_SUITE_P(Peers, RealFs,
                         Values(FsServer::kQemu, FsServer::kRust),
                         name_of_info);
INSTANTIATE_TEST_SUITE_P(Peers, RealFsTool,
                         Values(FsServer::kQemu, FsServer::kRust),
                         name_of_info);

}  // namespace
}  // namespace vhost::testing
