// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/peers/process.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr Duration kPatience = std::chrono::seconds(20);
constexpr char kStatus[] = "{\"command\":\"status\"}\n";

class MinivmControl : public ::testing::Test {
 protected:
  void SetUp() override {
    loop_ = *EpollEventLoop::create();
    ASSERT_EQ(listen(), absl::OkStatus());
  }

  absl::Status listen() {
    auto server = ControlServer::listen(
        *loop_, path(), [this](const Request& request, auto answer) {
          requests_.push_back(request);
          if (request.verb == Verb::kPause) {
            waiting_.push_back(std::move(answer));
            return;
          }
          ctl::Json out = ctl::Json::object();
          out["number"] = requests_.size();
          out["filler"] = filler_;
          answer(out);
        });
    if (server.ok()) server_ = *std::move(server);
    return server.status();
  }

  std::string path() const { return dir_.file("control"); }

  bool turn_until(const std::function<bool()>& condition) {
    const MonotonicTime until = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      EXPECT_TRUE(loop_->run_once(std::chrono::milliseconds(5)).ok());
    }
    return true;
  }

  UniqueFd connect() {
    absl::StatusOr<UniqueFd> fd = connect_control(path());
    EXPECT_TRUE(fd.ok()) << fd.status();
    return fd.ok() ? *std::move(fd) : UniqueFd();
  }

  static void send(const UniqueFd& fd, absl::string_view text) {
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  // The next bytes that come; "" at the end of the connection.
  std::string receive(const UniqueFd& fd, size_t most = 4096) {
    std::string out(most, '\0');
    ssize_t got = -1;
    EXPECT_TRUE(turn_until([&] {
      got = ::recv(fd.get(), out.data(), out.size(), MSG_DONTWAIT);
      return got >= 0;
    }));
    out.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    return out;
  }

  testing::TempDir dir_;
  std::unique_ptr<EpollEventLoop> loop_;
  std::vector<Request> requests_;
  std::vector<ControlServer::Answer> waiting_;
  std::string filler_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(MinivmControl, AnswersOneRequestAfterTheOther) {
  const UniqueFd client = connect();
  send(client, absl::StrCat(kStatus, "{\"command\":\"stats\"}\n"));
  std::string got;
  while (got.find("\"number\":2") == std::string::npos) got += receive(client);
  EXPECT_THAT(got, StartsWith("{\"ok\":true,\"number\":1"));
  ASSERT_EQ(requests_.size(), 2u);
  EXPECT_EQ(requests_[1].verb, Verb::kStats);
}

TEST_F(MinivmControl, TakesARequestInPieces) {
  const UniqueFd client = connect();
  for (const char c : absl::string_view(kStatus)) {
    EXPECT_TRUE(requests_.empty());
    send(client, absl::string_view(&c, 1));
    ASSERT_TRUE(loop_->run_once(std::chrono::milliseconds(5)).ok());
  }
  EXPECT_THAT(receive(client), HasSubstr("\"ok\":true"));
}

TEST_F(MinivmControl, AnswersWhatIsNoRequestAndGoesOn) {
  const UniqueFd client = connect();
  send(client, "rubbish\n\n");
  std::string got;
  while (std::count(got.begin(), got.end(), '\n') < 2) got += receive(client);
  EXPECT_THAT(got, StartsWith("{\"ok\":false,\"error\":\"INVALID_ARGUMENT"));
  send(client, kStatus);
  EXPECT_THAT(receive(client), HasSubstr("\"ok\":true"));
}

TEST_F(MinivmControl, LetsAClientGoWhoseLineHasNoEnd) {
  const UniqueFd client = connect();
  send(client, std::string(kMostRequestBytes + 1, 'x'));
  EXPECT_THAT(receive(client), HasSubstr("more than 4096 bytes"));
  EXPECT_EQ(receive(client), "");
  EXPECT_TRUE(requests_.empty());
}

TEST_F(MinivmControl, ServesOthersWhileOneWaits) {
  const UniqueFd first = connect();
  send(first, "{\"command\":\"pause\"}\n");
  ASSERT_TRUE(turn_until([&] { return waiting_.size() == 1; }));
  // A request behind one that is not answered is not looked at.
  send(first, kStatus);
  const UniqueFd second = connect();
  send(second, kStatus);
  EXPECT_THAT(receive(second), HasSubstr("\"number\":2"));
  EXPECT_EQ(requests_.size(), 2u);

  waiting_.front()(ctl::Json::object());
  std::string got;
  while (got.find("\"number\":3") == std::string::npos) got += receive(first);
  EXPECT_THAT(got, StartsWith("{\"ok\":true}\n"));
}

TEST_F(MinivmControl, ForgetsAClientThatLeavesBeforeItsAnswer) {
  {
    const UniqueFd client = connect();
    send(client, "{\"command\":\"pause\"}\n");
    ASSERT_TRUE(turn_until([&] { return waiting_.size() == 1; }));
  }
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(loop_->run_once(std::chrono::milliseconds(5)).ok());
  }
  waiting_.front()(ctl::Json::object());
  const UniqueFd other = connect();
  send(other, kStatus);
  EXPECT_THAT(receive(other), HasSubstr("\"ok\":true"));
}

TEST_F(MinivmControl, AnswerThatComesAfterTheServerIsForNobody) {
  const UniqueFd client = connect();
  send(client, "{\"command\":\"pause\"}\n");
  ASSERT_TRUE(turn_until([&] { return waiting_.size() == 1; }));
  server_ = nullptr;
  waiting_.front()(ctl::Json::object());
  EXPECT_EQ(receive(client), "");
}

TEST_F(MinivmControl, WaitsForAClientThatDoesNotRead) {
  filler_ = std::string(size_t{1} << 20, 'f');
  const UniqueFd client = connect();
  send(client, absl::StrCat(kStatus, kStatus));
  ASSERT_TRUE(turn_until([&] { return requests_.size() == 1; }));
  // The first answer does not fit the socket, so the second is not begun.
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(loop_->run_once(std::chrono::milliseconds(1)).ok());
  }
  EXPECT_EQ(requests_.size(), 1u);
  size_t bytes = 0;
  while (bytes < 2 * filler_.size()) {
    const size_t got = receive(client, 65536).size();
    ASSERT_NE(got, 0u);
    bytes += got;
  }
  EXPECT_EQ(requests_.size(), 2u);
}

TEST_F(MinivmControl, LetsClientsGoThatAreTooMany) {
  std::vector<UniqueFd> clients;
  size_t refused = 0;
  for (int i = 0; i < 40; ++i) {
    clients.push_back(connect());
    ASSERT_TRUE(loop_->run_once(std::chrono::milliseconds(50)).ok());
    std::array<char, 1> byte;
    if (::recv(clients.back().get(), byte.data(), 1, MSG_DONTWAIT) == 0) {
      ++refused;
    }
  }
  EXPECT_EQ(refused, 8u);
  clients.clear();
  // There is room again.
  EXPECT_TRUE(turn_until([&] {
    const UniqueFd client = connect();
    if (::send(client.get(), kStatus, sizeof(kStatus) - 1, MSG_NOSIGNAL) < 0) {
      return false;
    }
    return !receive(client).empty();
  }));
}

TEST_F(MinivmControl, IsForItsOwnerAlone) {
  struct stat file = {};
  ASSERT_EQ(::stat(path().c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
}

TEST_F(MinivmControl, ReplacesASocketFileThatNobodyListensAt) {
  // The file stays when a server is killed: a second name for it does.
  ASSERT_EQ(::link(path().c_str(), dir_.file("other").c_str()), 0);
  server_ = nullptr;
  ASSERT_EQ(::rename(dir_.file("other").c_str(), path().c_str()), 0);
  EXPECT_EQ(connect_control(path()).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(listen(), absl::OkStatus());
}

TEST_F(MinivmControl, DoesNotTakeAwayWhatSomebodyUses) {
  const absl::Status second =
      ControlServer::listen(*loop_, path(), [](const Request&, auto) {
      }).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.message()), HasSubstr(path()));

  std::ofstream(dir_.file("file")) << "dear to somebody";
  EXPECT_EQ(ControlServer::listen(*loop_, dir_.file("file"),
                                  [](const Request&, auto) {})
                .status()
                .code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ControlServer::listen(*loop_, std::string(200, 'p'),
                                  [](const Request&, auto) {})
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(MinivmControl, RemovesItsFile) {
  server_ = nullptr;
  struct stat file = {};
  EXPECT_NE(::stat(path().c_str(), &file), 0);
}

}  // namespace
}  // namespace vhost::minivm
