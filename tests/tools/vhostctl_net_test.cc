// SPDX-License-Identifier: Apache-2.0
//
// vhostctl net echo.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "tests/tools/program.h"
#include "vhostdev/testing/model_net.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

// Two network cards joined by a cable, for vhostctl to find at socket(0) and
// socket(1).
class NetEchoCommand : public ::testing::Test {
 protected:
  void serve(const ModelOptions& options = {}) {
    for (uint32_t i = 0; i < 2; ++i) {
      backends_[i] = std::make_unique<ModelBackend>(&nets_[i], options);
      ASSERT_TRUE(backends_[i]->listen_on(socket(i)).ok());
      ASSERT_TRUE(backends_[i]->start_thread().ok());
    }
  }
  std::string socket(uint32_t port) const {
    return dir_.file(port == 0 ? "a.sock" : "b.sock");
  }
  Finished echo(std::vector<std::string> more = {}) {
    std::vector<std::string> all = {"net",     "echo",      "--socket",
                                    socket(0), "--socket2", socket(1)};
    all.insert(all.end(), more.begin(), more.end());
    return vhostctl(all);
  }

  TempDir dir_;
  std::array<ModelNet, 2> nets_;
  std::array<std::unique_ptr<ModelBackend>, 2> backends_;
};

TEST_F(NetEchoCommand, CountsWhatCameBack) {
  ModelNet::join(nets_[0], nets_[1]);
  serve();
  const Finished run = echo({"--frames", "500", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json out = document(run.out);
  EXPECT_EQ(out["sent"], 500);
  EXPECT_EQ(out["arrived"], 500);
  EXPECT_EQ(out["returned"], 500);
  EXPECT_EQ(out["damaged"], 0);
  EXPECT_EQ(out["repeated"], 0);
  EXPECT_GT(out["bytes"], 500 * 2 * 60);
  EXPECT_TRUE(out["seconds"].is_number());
  EXPECT_EQ(nets_[0].counters().from_guest, 500u);
  EXPECT_EQ(nets_[0].counters().to_guest, 500u);
}

TEST_F(NetEchoCommand, SendsAThousandUnlessToldOtherwise) {
  ModelNet::join(nets_[0], nets_[1]);
  serve();
  const Finished run = echo();
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("returned: 1000 to port a"));
}

TEST_F(NetEchoCommand, FailsInTimeWhereNothingComes) {
  serve();
  const Finished run = echo({"--timeout", "0.3", "--json"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_THAT(run.err, HasSubstr("0 arrived at port b"));
  EXPECT_EQ(document(run.out)["arrived"], 0) << "it counts all the same";
  EXPECT_LT(run.took, std::chrono::seconds(5));
}

TEST_F(NetEchoCommand, NamesThePortThatIsNotThere) {
  ModelNet::join(nets_[0], nets_[1]);
  serve();
  backends_[1] = nullptr;
  const Finished run = echo();
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
  EXPECT_THAT(run.err, HasSubstr("port b"));
}

TEST_F(NetEchoCommand, NamesThePortThatDies) {
  constexpr uint32_t kGetVringBase = 11;
  ModelNet::join(nets_[0], nets_[1]);
  ModelOptions options;
  options.on_message = [](const ModelMessage& message) {
    return ModelVerdict{message.request == kGetVringBase
                            ? ModelVerdict::Kind::kHangUp
                            : ModelVerdict::Kind::kObey};
  };
  serve(options);
  const Finished run = echo({"--frames", "10"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
  EXPECT_THAT(run.err, HasSubstr("port a: stop"));
  EXPECT_THAT(run.out, HasSubstr("returned: 10 "));
}

TEST_F(NetEchoCommand, NeedsBothSockets) {
  EXPECT_EQ(vhostctl({"net", "echo", "--socket", "a"}).exit, 2);
  EXPECT_EQ(vhostctl({"net", "echo", "--socket2", "b"}).exit, 2);
  EXPECT_EQ(echo({"--frames", "0"}).exit, 2);
}

}  // namespace
}  // namespace vhost::testing
