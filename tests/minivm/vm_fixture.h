// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_VM_FIXTURE_H_
#define TESTS_MINIVM_VM_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/peers/process.h"
#include "tools/minivm/main_loop.h"
#include "tools/minivm/vm.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/testing/model_net.h"

namespace vhost::minivm {

inline constexpr Duration kVmPatience = std::chrono::seconds(60);
inline constexpr uint64_t kVmDiskSize = uint64_t{4} << 20;

// A disk in memory behind a socket.
class Disk {
 public:
  explicit Disk(const std::string& socket, testing::ModelOptions options = {})
      : socket_(socket),
        options_(std::move(options)),
        disk_(*testing::ModelBlk::on_memory(kVmDiskSize)) {
    serve();
  }

  // The back-end dies, and has a successor.
  void restart() {
    backend_ = nullptr;
    serve();
  }

 private:
  void serve() {
    backend_ = std::make_unique<testing::ModelBackend>(disk_.get(), options_);
    EXPECT_TRUE(backend_->listen_on(socket_).ok());
    EXPECT_TRUE(backend_->start_thread().ok());
  }

  const std::string socket_;
  const testing::ModelOptions options_;
  std::unique_ptr<testing::ModelBlk> disk_;
  std::unique_ptr<testing::ModelBackend> backend_;
};

// Two network cards with a cable between them, each behind a socket.
class Nets {
 public:
  Nets(const std::string& near, const std::string& far)
      : near_end_(&near_, two_queues()), far_end_(&far_, two_queues()) {
    testing::ModelNet::join(near_, far_);
    EXPECT_TRUE(near_end_.listen_on(near).ok());
    EXPECT_TRUE(near_end_.start_thread().ok());
    EXPECT_TRUE(far_end_.listen_on(far).ok());
    EXPECT_TRUE(far_end_.start_thread().ok());
  }

  const testing::ModelNet& near() const { return near_; }

 private:
  static testing::ModelOptions two_queues() {
    testing::ModelOptions options;
    options.queues = 2;
    return options;
  }

  testing::ModelNet near_;
  testing::ModelNet far_;
  testing::ModelBackend near_end_;
  testing::ModelBackend far_end_;
};

// A loop, and VMs on it.
class VmFixture : public ::testing::Test {
 protected:
  void SetUp() override { main_ = *MainLoop::create(); }

  RunOptions options(const std::string& socket) const {
    RunOptions out;
    out.memory = uint64_t{8} << 20;
    out.guest = GuestKind::kDriver;
    out.devices.resize(1);
    out.devices[0].path = socket;
    out.workload.depth = 4;
    return out;
  }

  // Two nets, at "near" and "far".
  RunOptions nets_options() const {
    RunOptions out = options(dir_.file("near"));
    out.devices.resize(2);
    out.devices[1].path = dir_.file("far");
    for (DeviceOptions& device : out.devices) {
      device.net = true;
      device.queues = 2;
    }
    return out;
  }

  std::unique_ptr<Vm> make(const RunOptions& options) {
    absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::create(main_->loop(), options);
    EXPECT_TRUE(vm.ok()) << vm.status();
    return vm.ok() ? *std::move(vm) : nullptr;
  }

  // As long as a guest that runs needs for many requests, and less than its
  // watchdog's patience.
  void let_time_pass() {
    bool over = false;
    const auto timer =
        main_->loop().timer(main_->loop().now() + std::chrono::milliseconds(50),
                            [&over] { over = true; });
    EXPECT_TRUE(turn_until([&over] { return over; }));
  }

  bool turn_until(const std::function<bool()>& condition) {
    bool late = false;
    const auto limit = main_->loop().timer(main_->loop().now() + kVmPatience,
                                           [&late] { late = true; });
    const std::function<void()> tick = [&] {
      tick_ = main_->loop().timer(
          main_->loop().now() + std::chrono::milliseconds(5), tick);
    };
    tick();
    while (!condition() && !late) {
      EXPECT_TRUE(main_->turn().ok());
    }
    tick_ = nullptr;
    return !late;
  }

  // What `verb` is answered.
  absl::StatusOr<ctl::Json> ask(Vm& vm, const Request& request) {
    absl::StatusOr<ctl::Json> out = absl::UnknownError("no answer");
    bool answered = false;
    vm.handle(request, [&](absl::StatusOr<ctl::Json> answer) {
      out = std::move(answer);
      answered = true;
    });
    EXPECT_TRUE(turn_until([&] { return answered; }));
    return out;
  }
  absl::Status ask(Vm& vm, Verb verb, bool devices = false) {
    return ask(vm, {.verb = verb, .devices = devices, .device = {}}).status();
  }

  // Waits for so many requests, and frames, more.
  ::testing::AssertionResult gets_on(Vm& vm, uint64_t count = 100) {
    const auto done = [&vm] {
      const WorkloadReport now = vm.report();
      return now.reads + now.writes + now.frames_received;
    };
    const uint64_t before = done();
    if (turn_until([&] { return done() >= before + count; })) {
      return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure()
           << done() - before << " from " << before << " on";
  }

  testing::TempDir dir_;
  std::unique_ptr<MainLoop> main_;
  std::unique_ptr<EventLoop::Timer> tick_;
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_VM_FIXTURE_H_
