// SPDX-License-Identifier: Apache-2.0
//
// What vhostctl finds out about a back-end, and how it gets there.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/tools/program.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr Duration kSlack = std::chrono::seconds(3);

std::vector<std::string> strings(const nlohmann::json& array) {
  std::vector<std::string> out;
  for (const auto& item : array) {
    if (item.is_string()) out.push_back(item.get_ref<const std::string&>());
  }
  return out;
}

TEST_F(ModelDisk, InfoNamesWhatIsOffered) {
  serve();
  const Finished run = vhostctl({"info", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json info = document(run.out);
  EXPECT_THAT(
      strings(info["features"]),
      AllOf(Contains("EVENT_IDX"), Contains("FLUSH"), Contains("VERSION_1")));
  EXPECT_THAT(
      strings(info["protocol_features"]),
      AllOf(Contains("CONFIG"), Contains("REPLY_ACK"), Contains("LOG_SHMFD")));
  EXPECT_EQ(info["queues"], 4);
  EXPECT_EQ(info["slots"], 509);
  EXPECT_EQ(info["device"], "blk");
  EXPECT_EQ(info["config"]["capacity"], kSize / 512);
  EXPECT_EQ(info["config"]["num_queues"], 4);
}

TEST_F(ModelDisk, InfoDoesNotNameWhatIsNot) {
  ModelOptions options;
  options.without_features = {kFeatureEventIdx};
  options.without_protocol_features = 1 << 1;  // LOG_SHMFD
  serve(options);
  const Finished run = vhostctl({"info", "--socket", socket(), "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json info = document(run.out);
  EXPECT_THAT(strings(info["features"]), Not(Contains("EVENT_IDX")));
  EXPECT_THAT(strings(info["protocol_features"]), Not(Contains("LOG_SHMFD")));
}

TEST_F(ModelDisk, InfoIsReadableWithoutJson) {
  serve();
  const Finished run = vhostctl({"info", "--socket", socket()});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("queues: 4\n"));
  EXPECT_THAT(run.out, HasSubstr("  capacity: 8192\n"));
}

TEST_F(ModelDisk, InfoHasNoLineForAConfigurationThatThereIsNot) {
  ModelOptions options;
  options.without_protocol_features = uint64_t{1} << kProtocolConfig;
  serve(options);
  const Finished run = vhostctl({"info", "--socket", socket()});
  EXPECT_EQ(run.exit, 0) << run.err;
  EXPECT_THAT(run.out, Not(HasSubstr("config:")));
}

TEST_F(ModelDisk, InfoNamesBitsOfTheDeviceItIsToldOf) {
  serve();
  const Finished run =
      vhostctl({"info", "--socket", socket(), "--device=net", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_EQ(document(run.out)["device"], "net");
}

TEST_F(ModelDisk, IsReachedThroughAnInheritedDescriptor) {
  serve();
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
            0);
  const UniqueFd ours(ends[0]);
  ASSERT_TRUE(backend_->connect(UniqueFd(ends[1])).ok());
  RunOptions options;
  options.extra = ours;
  options.extra_as = 9;
  const Finished run = vhostctl({"blk", "id", "--fd", "9"}, options);
  EXPECT_EQ(run.exit, 0) << run.err;
  EXPECT_EQ(run.out, "vhost-model-blk\n");
}

// Connects to `path` as soon as somebody listens there.
UniqueFd connect_when_possible(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const MonotonicTime deadline = std::chrono::steady_clock::now() + kSlack;
  while (std::chrono::steady_clock::now() < deadline) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                  sizeof(address)) == 0) {
      return fd;
    }
    std::this_thread::yield();
  }
  return UniqueFd();
}

TEST_F(ModelDisk, IsAwaitedByAListener) {
  serve();
  const std::string path = dir_.file("front-end.sock");
  std::thread back_end([this, path] {
    UniqueFd connected = connect_when_possible(path);
    EXPECT_TRUE(connected.valid());
    EXPECT_TRUE(backend_->connect(std::move(connected)).ok());
  });
  const Finished run = vhostctl({"blk", "id", "--listen", path});
  back_end.join();
  EXPECT_EQ(run.exit, 0) << run.err;
  EXPECT_EQ(run.out, "vhost-model-blk\n");
}

TEST_F(ModelDisk, StartsInAFewWaitsHoweverManyQueues) {
  ModelBlkOptions disk_options;
  disk_options.queues = 64;
  auto disk = ModelBlk::on_memory(kSize, disk_options);
  ASSERT_TRUE(disk.ok());
  ModelOptions options;
  options.queues = 64;
  serve(*std::move(disk), options);
  const Finished run = vhostctl({"bench", "start", "--socket", socket(),
                                 "--queues=64", "--repeat=3", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json result = document(run.out);
  EXPECT_LE(result["connect"]["waits"], 4);
  EXPECT_LE(result["start"]["waits"], 6);
  EXPECT_LE(result["stop"]["waits"], 2);
  for (const char* phase : {"connect", "start", "stop"}) {
    EXPECT_TRUE(result[phase]["waits"].is_number_integer()) << phase;
    EXPECT_TRUE(result[phase]["stalls"].is_number_integer()) << phase;
    EXPECT_GT(result[phase]["messages"], 0) << phase;
    EXPECT_GT(result[phase]["us_median"], 0) << phase;
  }
}

}  // namespace
}  // namespace vhost::testing
