// SPDX-License-Identifier: Apache-2.0
//
// vhostctl vsock ping, and what is said of the kernel's devices where there are
// none.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/tools/program.h"
#include "vhostdev/testing/model_vsock.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A host that echoes, for vhostctl to find at socket().
class VsockPing : public ::testing::Test {
 protected:
  void serve() {
    model_ = std::make_unique<ModelVsock>(host_);
    ModelOptions options;
    options.queues = 2;
    backend_ = std::make_unique<ModelBackend>(model_.get(), options);
    ASSERT_TRUE(backend_->listen_on(socket()).ok());
    ASSERT_TRUE(backend_->start_thread().ok());
  }
  std::string socket() const { return dir_.file("vsock.sock"); }
  Finished ping(std::vector<std::string> more = {}) {
    std::vector<std::string> all = {"vsock",  "ping",   "--socket",
                                    socket(), "--port", "1234"};
    all.insert(all.end(), more.begin(), more.end());
    return vhostctl(all);
  }

  TempDir dir_;
  ModelVsockOptions host_{.guest_cid = 42, .has_event_queue = false};
  std::unique_ptr<ModelVsock> model_;
  std::unique_ptr<ModelBackend> backend_;
};

TEST_F(VsockPing, CountsWhatCameBack) {
  serve();
  const Finished run = ping({"--count", "200", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const nlohmann::json out = document(run.out);
  EXPECT_EQ(out["cid"], 42) << "as the back-end says";
  EXPECT_EQ(out["port"], 1234);
  EXPECT_EQ(out["sent"], 200);
  EXPECT_EQ(out["returned"], 200);
  EXPECT_EQ(out["bytes"], 200 * 64);
  EXPECT_GT(out["min_us"], 0.0);
  EXPECT_LE(out["min_us"], out["mean_us"]);
  EXPECT_LE(out["p99_us"], out["max_us"]);
  EXPECT_EQ(model_->counters().bytes_from_guest, 200u * 64);
  EXPECT_EQ(model_->counters().violations, 0u);
  EXPECT_EQ(model_->connections(), 0u) << "it took leave";
}

TEST_F(VsockPing, SendsTenUnlessToldOtherwise) {
  serve();
  const Finished run = ping({"--cid", "42"});
  ASSERT_EQ(run.exit, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("guest 42 to host port 1234: 10 of 10"),
                             HasSubstr("round trip: min ")));
}

TEST_F(VsockPing, SaysThatTheHostRefuses) {
  host_.ports = {1};
  serve();
  const Finished run = ping({"--json"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "ABORTED"));
  EXPECT_THAT(run.err, HasSubstr("connect: stream to 2:1234: refused"));
  EXPECT_EQ(document(run.out)["returned"], 0) << "it counts all the same";
}

TEST_F(VsockPing, FailsInTimeWhereNothingComesBack) {
  serve();
  model_->hold(true);
  const Finished run = ping({"--timeout", "0.3"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "DEADLINE_EXCEEDED"));
  EXPECT_THAT(run.err, HasSubstr("ping 0: no answer for 300ms"));
  EXPECT_LT(run.took, std::chrono::seconds(5));
}

TEST_F(VsockPing, SaysThatTheBackEndIsNotThere) {
  const Finished run = ping();
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE"));
}

TEST_F(VsockPing, NeedsOneBackEndAndWhatGoesWithIt) {
  const std::string kernel = "--kernel=/dev/vhost-vsock";
  EXPECT_EQ(vhostctl({"vsock", "ping"}).exit, 2);
  EXPECT_EQ(vhostctl({"vsock", "ping", "--socket", "s"}).exit, 2);
  EXPECT_EQ(vhostctl({"vsock", "ping", kernel}).exit, 2);
  EXPECT_EQ(ping({kernel, "--cid", "3"}).exit, 2);
  for (const char* const wrong :
       {"--cid=2", "--cid=4294967295", "--port=0", "--count=0"}) {
    EXPECT_EQ(ping({wrong}).exit, 2) << wrong;
  }
}

TEST(KernelInfo, NeedsToKnowWhichDeviceItIs) {
  const Finished run = vhostctl({"info", "--kernel", "/dev/null"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_TRUE(is_error_line(run.err, "INVALID_ARGUMENT"));
  EXPECT_THAT(run.err, HasSubstr("neither net nor vsock nor scsi"));
  EXPECT_EQ(vhostctl({"info", "--kernel=/dev/x", "--socket=s"}).exit, 2);
}

TEST(KernelInfo, NamesTheDeviceThatIsNotThere) {
  for (const char* const kind : {"net", "vsock", "scsi"}) {
    const std::string path = std::string("/nowhere/vhost-") + kind;
    const Finished run = vhostctl({"info", "--kernel", path});
    EXPECT_EQ(run.exit, 1);
    EXPECT_TRUE(is_error_line(run.err, "UNAVAILABLE")) << run.err;
    EXPECT_THAT(run.err, HasSubstr(path));
  }
}

TEST(KernelInfo, NamesTheRequestThatADeviceDoesNotKnow) {
  const Finished run =
      vhostctl({"info", "--kernel", "/dev/null", "--device", "vsock"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, HasSubstr("VHOST_"));
}

TEST(NetEchoOverATap, NeedsTheDeviceAndTheInterface) {
  const std::string kernel = "--kernel=/dev/vhost-net";
  EXPECT_EQ(vhostctl({"net", "echo", kernel}).exit, 2);
  EXPECT_EQ(vhostctl({"net", "echo", "--tap", "t"}).exit, 2);
  EXPECT_EQ(
      vhostctl({"net", "echo", kernel, "--tap", "t", "--socket", "s"}).exit, 2);
  EXPECT_EQ(
      vhostctl({"net", "echo", kernel, "--tap", std::string(16, 't')}).exit, 2);
}

TEST(NetEchoOverATap, NamesTheTapThatCannotBe) {
  const Finished run = vhostctl(
      {"net", "echo", "--kernel=/nowhere/vhost-net", "--tap", "no/tap"});
  EXPECT_EQ(run.exit, 1);
  EXPECT_THAT(run.err, HasSubstr("tap no/tap: "));
}

}  // namespace
}  // namespace vhost::testing
