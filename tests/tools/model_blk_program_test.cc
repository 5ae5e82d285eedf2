// SPDX-License-Identifier: Apache-2.0
//
// vhost-model-blk as a program: the conventions that management software
// relies on.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/model_socket.h"
#include "tests/peers/process.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using user::Request;

constexpr char kProgram[] = "vhost-model-blk";
constexpr auto kPatience = std::chrono::seconds(10);
constexpr auto kFast = std::chrono::seconds(1);

Finished model_blk(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), kProgram);
  return run_program(arguments);
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  EXPECT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// A front-end that only asks.
class Asker {
 public:
  explicit Asker(UniqueFd socket) : socket_(std::move(socket)) {}

  static std::optional<Asker> connect(const std::string& path) {
    const sockaddr_un address = address_of(path);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                    sizeof(address)) == 0) {
        return Asker(std::move(fd));
      }
      ::poll(nullptr, 0, 1);  // It starts listening without telling anybody.
    }
    return std::nullopt;
  }

  std::optional<uint64_t> get(Request what) {
    const uint32_t version = user::wire::kVersion;
    if (!socket_.send(user::to_int(what), version, {}).ok()) {
      return std::nullopt;
    }
    pollfd readable = {socket_.fd().get(), POLLIN, 0};
    while (::poll(&readable, 1, 10000) > 0) {
      auto frame = socket_.receive();
      if (!frame.ok()) return std::nullopt;
      if (frame->has_value()) {
        return user::wire::read_prefix<uint64_t>((*frame)->payload);
      }
    }
    return std::nullopt;
  }

 private:
  ModelSocket socket_;
};

class ModelBlkProgram : public ::testing::Test {
 protected:
  void start(std::vector<std::string> arguments,
             const Process::Streams& streams = {}) {
    arguments.insert(arguments.begin(), kProgram);
    auto process = Process::start(arguments, streams);
    ASSERT_TRUE(process.ok()) << process.status();
    process_ = *std::move(process);
  }
  std::string path() const { return dir_.file("model.sock"); }

  TempDir dir_;
  std::unique_ptr<Process> process_;
};

TEST_F(ModelBlkProgram, PrintsWhatItCanDoWhateverElseItIsTold) {
  const Finished ran =
      model_blk({"--print-capabilities", "--size=x", "--bogus"});
  EXPECT_EQ(ran.exit, 0);
  EXPECT_THAT(ran.out, HasSubstr("\"type\": \"block\""));
  EXPECT_THAT(ran.out, HasSubstr("\"read-only\""));
  EXPECT_THAT(ran.out, HasSubstr("\"blk-file\""));
  EXPECT_EQ(ran.err, "");
}

TEST_F(ModelBlkProgram, FailsWithOneLineWhenItCannotServe) {
  const std::string socket = "--socket-path=" + path();
  const std::vector<std::vector<std::string>> bad = {
      {},
      {socket},
      {"--size=4096"},
      {socket, "--size=4096", "--fd=5"},
      {socket, "--size=0"},
      {socket, "--size=4096", "--queues=257"},
      {socket, "--size=4096", "--without=NOTHING_LIKE_IT"},
      {socket, "--size=4096", "--fault=kindness"},
      {socket, "--size=4096", "--fault=used-id@soon"},
      {socket, "--size=4096", "--stop-before-message=soon"},
      {socket, "--size=4096", "--die-after-store=0"},
      {socket, "--size=4096", "--die-before-message=soon"},
      {socket, "--size=4096", "stray"},
      {socket, "--blk-file=" + dir_.file("missing")},
      {socket, "--blk-file=/"},
      {"--socket-path=" + dir_.file("no/such/folder"), "--size=4096"},
      {"--fd=77", "--size=4096"},
  };
  for (const std::vector<std::string>& arguments : bad) {
    const Finished ran = model_blk(arguments);
    EXPECT_GT(ran.exit, 0);
    EXPECT_EQ(ran.out, "");
    EXPECT_THAT(ran.err, StartsWith("vhost-model-blk: "));
    EXPECT_EQ(ran.err.find('\n'), ran.err.size() - 1) << ran.err;
  }
}

TEST_F(ModelBlkProgram, ServesOneFrontEndAfterAnother) {
  start({"--socket-path=" + path(), "--size=1048576", "--queues=7"});
  for (int i = 0; i < 3; ++i) {
    std::optional<Asker> asker = Asker::connect(path());
    ASSERT_TRUE(asker.has_value());
    EXPECT_EQ(asker->get(Request::kGetQueueNum), 7u);
  }
}

TEST_F(ModelBlkProgram, LetsASecondFrontEndWaitForItsTurn) {
  start({"--socket-path=" + path(), "--size=1048576"});
  std::optional<Asker> first = Asker::connect(path());
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->get(Request::kGetFeatures).has_value());
  std::optional<Asker> second = Asker::connect(path());
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(first->get(Request::kGetFeatures).has_value());
  first.reset();
  EXPECT_TRUE(second->get(Request::kGetFeatures).has_value());
}

TEST_F(ModelBlkProgram, EndsFastOnSigtermAndRemovesItsSocket) {
  start({"--socket-path=" + path(), "--size=1048576"});
  std::optional<Asker> asker = Asker::connect(path());
  ASSERT_TRUE(asker.has_value());
  EXPECT_TRUE(asker->get(Request::kGetFeatures).has_value());
  process_->signal(SIGTERM);
  EXPECT_EQ(process_->wait(kFast), 0);
  EXPECT_NE(::access(path().c_str(), F_OK), 0);
}

TEST_F(ModelBlkProgram, DoesNotOfferWhatItIsToldToHide) {
  start({"--socket-path=" + path(), "--size=1048576",
         "--without=EVENT_IDX,DISCARD,STATUS"});
  std::optional<Asker> asker = Asker::connect(path());
  ASSERT_TRUE(asker.has_value());
  const std::optional<uint64_t> features = asker->get(Request::kGetFeatures);
  const std::optional<uint64_t> protocol =
      asker->get(Request::kGetProtocolFeatures);
  ASSERT_TRUE(features.has_value() && protocol.has_value());
  EXPECT_EQ(*features >> kFeatureEventIdx & 1, 0u);
  EXPECT_EQ(*features >> 13 & 1, 0u) << "DISCARD";
  EXPECT_EQ(*features >> kFeatureIndirectDesc & 1, 1u);
  EXPECT_EQ(*protocol >> kProtocolStatus & 1, 0u);
  EXPECT_EQ(*protocol >> kProtocolReplyAck & 1, 1u);
}

TEST_F(ModelBlkProgram, UsesAnInheritedListeningSocket) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address),
                   sizeof(address)),
            0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  Process::Streams streams;
  streams.extra = listener;
  streams.extra_as = 5;
  start({"--fd=5", "--size=1048576"}, streams);
  std::optional<Asker> asker = Asker::connect(path());
  ASSERT_TRUE(asker.has_value());
  EXPECT_TRUE(asker->get(Request::kGetFeatures).has_value());
  process_->signal(SIGTERM);
  EXPECT_EQ(process_->wait(kFast), 0);
  EXPECT_EQ(::access(path().c_str(), F_OK), 0) << "not its own to remove";
}

TEST_F(ModelBlkProgram, UsesAnInheritedConnectionAndEndsWithIt) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd theirs(ends[1]);
  Process::Streams streams;
  streams.extra = theirs;
  streams.extra_as = 5;
  start({"--fd=5", "--size=1048576"}, streams);
  theirs.reset();
  {
    Asker asker{UniqueFd(ends[0])};
    EXPECT_TRUE(asker.get(Request::kGetFeatures).has_value());
  }
  EXPECT_EQ(process_->wait(kPatience), 0);
}

TEST_F(ModelBlkProgram, LeavesAFileAloneThatStandsInItsWay) {
  const UniqueFd file(
      ::open(path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  const Finished ran = model_blk({"--socket-path=" + path(), "--size=4096"});
  EXPECT_EQ(ran.exit, 1);
  EXPECT_EQ(::access(path().c_str(), F_OK), 0);
}

}  // namespace
}  // namespace vhost::testing
