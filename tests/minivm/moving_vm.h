// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MOVING_VM_H_
#define TESTS_MINIVM_MOVING_VM_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/minivm/vm_program.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"

namespace vhost::testing {

// A back-end on the image that all hosts share, and a minivm.
struct Host {
  std::unique_ptr<TempDir> dir;
  std::unique_ptr<Process> disk;
  std::unique_ptr<VmProgram> vm;

  // "tcp:127.0.0.1:40001"; empty: it does not take a guest.
  std::string incoming() const;
  // A part of its status' "migration"; null if there is none.
  nlohmann::json migration(const std::string& name) const;
  std::string state() const;  // Empty: it does not answer.
  std::string socket() const { return dir->file("disk.sock"); }
};

// VMs whose guest moves from one to the other, and what they leave behind.
class MovingVmTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kQueues = 2;
  static constexpr uint64_t kImageSize = uint64_t{32} << 20;

  // What is not there makes the test skip itself.
  void use(DiskServer server);

  // A host whose VM has `options` besides `machine_` and a disk.
  absl::StatusOr<std::unique_ptr<Host>> start_host(
      const std::vector<std::string>& options);
  // One with a guest under load, and one that takes a guest.
  void start_source(const std::string& workload = "--workload=verify,depth=16");
  absl::StatusOr<std::unique_ptr<Host>> start_destination();
  // Kills the back-end of `host`, and starts one in its place.
  absl::Status kill_disk(Host& host);

  // `minivm ctl migrate` from `here_` to `there`: its answer.
  absl::StatusOr<nlohmann::json> migrate(const Host& there,
                                         std::vector<std::string> options = {});
  // The same, beside the test.
  std::future<absl::StatusOr<nlohmann::json>> migrating(
      const std::string& to, std::vector<std::string> options = {});

  // Looks that the VM that was moved away ended as it should, and that the
  // guest goes on at `there`, which is `here_` from now on.
  void take_over_at(std::unique_ptr<Host> there);
  // Waits until a migration of `here_` is in `phase`, or over.
  ::testing::AssertionResult reaches(const std::string& phase);

  // Lets the guest check everything, and looks that nothing is wrong.
  void end_well();

  // How many processes there are that this one started.
  static int processes();

  // Words that every VM gets.
  std::vector<std::string> machine_ = {"--memory=16M", "--guest=driver"};
  TempDir dir_;
  DiskServer server_ = DiskServer::kModel;
  std::unique_ptr<Host> here_;

 private:
  absl::StatusOr<std::unique_ptr<Process>> serve(const Host& host);
};

}  // namespace vhost::testing

#endif  // TESTS_MINIVM_MOVING_VM_H_
