// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_VM_FIXTURE_H_
#define TESTS_MINIVM_VM_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "tests/minivm/vm_rig.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/testing/model_net.h"

namespace vhost::minivm {

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

// What the VMs of a test are made of.
class VmFixture : public VmRig {
 protected:
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
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_VM_FIXTURE_H_
