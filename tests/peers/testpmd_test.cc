// SPDX-License-Identifier: Apache-2.0
//
// dpdk-testpmd: frames through a real network back-end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/net/net_port.h"
#include "tests/peers/process.h"
#include "tests/peers/testpmd.h"
#include "tools/vhostctl/net_echo.h"

namespace vhost::testing {
namespace {

using ctl::NetEcho;
using ::testing::HasSubstr;

constexpr MacAddress kMac = {0x52, 0x54, 0, 1, 2, 3};
// Far above what DmaMemory uses.
constexpr uint64_t kPluggedGpa = uint64_t{64} << 30;
constexpr uint64_t kPluggedSize = uint64_t{4} << 20;
// How long what must not wait for a dead back-end may take on a busy machine;
// what waited would take kPatience.
constexpr Duration kAtOnce = kPatience / 2;

class TestpmdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status installed = Testpmd::check_installed();
    if (!installed.ok()) GTEST_SKIP() << installed;
  }
  void TearDown() override {
    if (HasFailure() && testpmd_ != nullptr) {
      ADD_FAILURE() << "dpdk-testpmd said: " << testpmd_->log();
    }
  }

  void start_testpmd(Testpmd::Options options = {}) {
    auto started = Testpmd::start(dir_, options);
    ASSERT_TRUE(started.ok()) << started.status();
    testpmd_ = *std::move(started);
  }
  void start_ports(NetPort::Options options = {}) {
    options.client.wait_mode = NetClient::WaitMode::kSleep;
    two_ = std::make_unique<TwoPorts>(testpmd_->address(0),
                                      testpmd_->address(1), options);
    const absl::Status status = two_->start();
    ASSERT_TRUE(status.ok()) << status;
  }
  void start(Testpmd::Options testpmd = {}, NetPort::Options ports = {}) {
    ASSERT_NO_FATAL_FAILURE(start_testpmd(testpmd));
    ports.pairs = testpmd.pairs;
    ASSERT_NO_FATAL_FAILURE(start_ports(ports));
  }

  // Checks that `frames` go there and back, none lost, changed or repeated.
  void echo(uint64_t frames) {
    NetEcho echo(two_->a.client(), two_->b.client(),
                 {.frames = frames, .window = 48, .timeout = kPatience});
    const absl::Status done = echo.run();
    EXPECT_TRUE(done.ok()) << done;
    EXPECT_EQ(echo.counts().arrived, frames);
    EXPECT_EQ(echo.counts().returned, frames);
    EXPECT_EQ(echo.counts().repeated, 0u);
  }
  absl::Status run_a(absl::FunctionRef<void(VhostDev&, Completion)> what) {
    VhostDev& dev = two_->a.driver().device();
    return dev.run([&](Completion done) { what(dev, std::move(done)); },
                   kPatience);
  }
  absl::Status set_mtu(uint16_t mtu) {
    return run_a([mtu](VhostDev& dev, Completion done) {
      dev.set_mtu(mtu, std::move(done));
    });
  }

  TempDir dir_;
  std::unique_ptr<Testpmd> testpmd_;
  std::unique_ptr<TwoPorts> two_;
};

TEST_F(TestpmdTest, EchoesAHundredThousandFrames) {
  ASSERT_NO_FATAL_FAILURE(start());
  echo(100'000);
  EXPECT_TRUE(two_->stop().ok());
}

TEST_F(TestpmdTest, EchoesWhereItConnectsToUs) {
  ASSERT_NO_FATAL_FAILURE(start({.connects = true}));
  echo(2000);
  EXPECT_TRUE(two_->stop().ok());
}

TEST_F(TestpmdTest, EchoesThroughTwoPairs) {
  ASSERT_NO_FATAL_FAILURE(start({.pairs = 2}));
  EXPECT_EQ(two_->a.client().pairs(), 2u);
  echo(2000);
  EXPECT_TRUE(two_->stop().ok());
}

TEST_F(TestpmdTest, EchoesInBuffersSmallerThanItsFrames) {
  NetPort::Options ports;
  ports.client.buffer_size = 256;
  ASSERT_NO_FATAL_FAILURE(start({}, ports));
  ASSERT_TRUE(two_->a.driver().has(kNetFeatureMrgRxbuf));
  NetEcho echo(two_->a.client(), two_->b.client(),
               {.frames = 2000, .window = 8, .timeout = kPatience});
  const absl::Status done = echo.run();
  EXPECT_TRUE(done.ok()) << done;
  EXPECT_EQ(echo.counts().returned, 2000u);
}

TEST_F(TestpmdTest, RunsAgainAfterAStop) {
  ASSERT_NO_FATAL_FAILURE(start());
  for (int round = 0; round < 3; ++round) {
    echo(500);
    ASSERT_TRUE(two_->stop().ok());
    const absl::Status again = two_->start();
    ASSERT_TRUE(again.ok()) << again;
  }
  echo(500);
}

TEST_F(TestpmdTest, HasAStatusThatKeepsFeaturesOk) {
  ASSERT_NO_FATAL_FAILURE(start());
  const VhostDev& dev = two_->a.driver().device();
  EXPECT_TRUE(dev.traits().has_status);
  EXPECT_TRUE(dev.backend_features().has(kNetFeatureMrgRxbuf));
  // It forwards nothing before DRIVER_OK.
  echo(10);
}

TEST_F(TestpmdTest, TakesAnMtuAndRefusesOneThatIsNone) {
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(set_mtu(1500).ok());
  const absl::Status refused = set_mtu(60);
  EXPECT_TRUE(absl::IsAborted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("NET_SET_MTU"));
  echo(500);
}

TEST_F(TestpmdTest, AnnouncesAnAddressAtTheOtherPort) {
  ASSERT_NO_FATAL_FAILURE(start());
  ASSERT_TRUE(run_a([](VhostDev& dev, Completion done) {
                dev.send_rarp(kMac, std::move(done));
              }).ok());
  NetClient& b = two_->b.client();
  std::array<NetFrame, 1> frame;
  ASSERT_TRUE(b.wait(kPatience));
  ASSERT_EQ(b.receive(frame), 1u);
  ASSERT_GE(frame[0].bytes.size(), 42u);
  EXPECT_EQ(std::memcmp(frame[0].bytes.data() + 6, kMac.data(), 6), 0);
  EXPECT_EQ(frame[0].bytes[12], std::byte{0x80});
  EXPECT_EQ(frame[0].bytes[13], std::byte{0x35});
}

TEST_F(TestpmdTest, IsEchoedByVhostctl) {
  ASSERT_NO_FATAL_FAILURE(start_testpmd());
  const Finished run = run_program(
      {"vhostctl", "net", "echo", "--socket", testpmd_->socket(0), "--socket2",
       testpmd_->socket(1), "--frames", "5000", "--json"});
  ASSERT_EQ(run.exit, 0) << run.err;
  const auto document = nlohmann::json::parse(run.out, nullptr, false);
  EXPECT_EQ(document.value("arrived", 0), 5000) << run.out;
  EXPECT_EQ(document.value("returned", 0), 5000);
  EXPECT_EQ(document.value("damaged", -1), 0);
}

TEST_F(TestpmdTest, LosesNoFrameWhileMemoryComesAndGoes) {
  ASSERT_NO_FATAL_FAILURE(start());
  auto region = MemoryRegion::create_memfd("plugged", kPluggedSize);
  ASSERT_TRUE(region.ok()) << region.status();
  MemorySection section;
  section.gpa = kPluggedGpa;
  section.size = kPluggedSize;
  section.region = *std::move(region);
  NetEcho echo(two_->a.client(), two_->b.client(),
               {.frames = 20'000, .window = 48, .timeout = kPatience});
  TestVm& vm = two_->vm;
  for (uint64_t round = 0; round < 10; ++round) {
    // Frames are under way all the time.
    ASSERT_TRUE(echo.run_to(round * 2000 + 1000).ok());
    ASSERT_TRUE(vm.memory.add(section).ok());
    ASSERT_TRUE(vm.context.run_until_memory_settled(kPatience).ok());
    ASSERT_TRUE(echo.run_to(round * 2000 + 2000).ok());
    ASSERT_TRUE(vm.memory.remove(kPluggedGpa).ok());
    ASSERT_TRUE(vm.context.run_until_memory_settled(kPatience).ok());
  }
  const absl::Status done = echo.run();
  EXPECT_TRUE(done.ok()) << done;
  EXPECT_EQ(echo.counts().returned, 20'000u);
  EXPECT_EQ(echo.counts().repeated, 0u);
}

TEST_F(TestpmdTest, MoreMemoryThanItTakesIsRefusedBeforehand) {
  ASSERT_NO_FATAL_FAILURE(start());
  TestVm& vm = two_->vm;
  const uint64_t free = vm.context.free_memory_slots();
  ASSERT_LT(free, 8u) << "it takes 8 regions in all";
  auto region = MemoryRegion::create_memfd("many", (free + 1) * 8192);
  ASSERT_TRUE(region.ok()) << region.status();
  // A page each, none beside its neighbour.
  const auto page = [&region](uint64_t index) {
    MemorySection section;
    section.gpa = kPluggedGpa + index * 8192;
    section.size = 4096;
    section.region = *region;
    section.offset_in_region = index * 8192;
    return section;
  };
  for (uint64_t i = 0; i < free; ++i) {
    ASSERT_TRUE(vm.context.can_add(page(i)).ok()) << i;
    ASSERT_TRUE(vm.memory.add(page(i)).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(vm.context.can_add(page(free))));
  ASSERT_TRUE(vm.context.run_until_memory_settled(kPatience).ok());
  echo(500);
}

// What became of the frames that were sent, by cookie.
using Outcomes = std::map<uint64_t, std::vector<absl::StatusCode>>;

void take_sent(NetClient& client, Outcomes& outcomes) {
  std::array<NetSent, 16> sent;
  for (size_t count = client.poll_sent(sent); count != 0;
       count = client.poll_sent(sent)) {
    for (const NetSent& one : std::span(sent).first(count)) {
      outcomes[one.cookie].push_back(one.status.code());
    }
  }
}

TEST_F(TestpmdTest, KilledUnderLoadEveryFrameCompletesOnceAndItsSuccessorRuns) {
  ASSERT_NO_FATAL_FAILURE(start());
  NetClient& a = two_->a.client();
  const std::vector<std::byte> frame(1000, std::byte{1});
  Outcomes outcomes;
  uint64_t next = 0;
  const auto send_all = [&] {
    while (a.send(frame, next).ok()) ++next;
    return a.kick();
  };
  while (outcomes.size() < 1000) {
    ASSERT_TRUE(send_all().ok());
    ASSERT_TRUE(a.wait(kPatience));
    take_sent(a, outcomes);
  }
  testpmd_->process().signal(SIGKILL);
  ASSERT_EQ(testpmd_->process().wait(kPatience), 128 + SIGKILL);
  // It is dead and the port does not know yet: these are never looked at.
  take_sent(a, outcomes);
  ASSERT_TRUE(send_all().ok());
  const MonotonicTime killed = std::chrono::steady_clock::now();
  while (a.in_flight() != 0) {
    ASSERT_TRUE(a.wait(kPatience));
    take_sent(a, outcomes);
  }
  EXPECT_TRUE(absl::IsUnavailable(a.status())) << a.status();
  EXPECT_TRUE(absl::IsUnavailable(a.send(frame, next)));
  EXPECT_TRUE(absl::IsUnavailable(two_->a.stop()));
  EXPECT_TRUE(absl::IsUnavailable(two_->b.stop()));
  EXPECT_LT(std::chrono::steady_clock::now() - killed, kAtOnce);

  EXPECT_EQ(outcomes.size(), next);
  uint64_t lost = 0;
  for (const auto& [cookie, codes] : outcomes) {
    ASSERT_EQ(codes.size(), 1u) << cookie;
    if (codes[0] == absl::StatusCode::kUnavailable) ++lost;
    if (codes[0] != absl::StatusCode::kUnavailable) {
      ASSERT_EQ(codes[0], absl::StatusCode::kOk) << cookie;
    }
  }
  EXPECT_GE(lost, 1u);

  ASSERT_NO_FATAL_FAILURE(start_testpmd());
  ASSERT_NO_FATAL_FAILURE(start_ports());
  echo(500);
}

}  // namespace
}  // namespace vhost::testing
