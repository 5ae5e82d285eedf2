// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_VM_PROGRAM_H_
#define TESTS_MINIVM_VM_PROGRAM_H_

#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/daemon.h"
#include "tests/peers/process.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// What only a program that hangs does not do in.
inline constexpr Duration kVmPatience = std::chrono::seconds(60);

// Whether `condition` holds before kVmPatience is over.
bool eventually(const std::function<bool()>& condition);

// minivm, run as a program with a control socket of its own.
class VmProgram {
 public:
  // Starts `minivm run --control ... --json` with these options besides.
  static absl::StatusOr<std::unique_ptr<VmProgram>> start(
      const std::vector<std::string>& options);

  // `minivm ctl ... --json`: the answer.
  // Errors: kAborted  what it printed, where its exit status is not 0.
  absl::StatusOr<nlohmann::json> ctl(std::vector<std::string> words);

  // The answer to what `minivm ctl` would send, over a connection that stays: a
  // program for each of a thousand requests would take most of the time.
  // Errors: kAborted      the error that it is.
  //         kUnavailable  nobody answers.
  absl::StatusOr<nlohmann::json> ask(const nlohmann::json& request);

  // `name` of `ctl stats`' workload; kNoAnswer if nobody answers.
  static constexpr uint64_t kNoAnswer = ~uint64_t{0};
  uint64_t workload(const std::string& name);
  // Waits until the workload did so many requests more.
  ::testing::AssertionResult gets_on(uint64_t requests = 100);

  // Sends the signal, or nothing, and waits for the end.
  struct End {
    std::optional<int> exit;  // Nothing: it does not end.
    nlohmann::json report;    // The last line of its output.
    std::string errors;       // What it wrote to standard error.
  };
  // `runs`: how long it has to do yet.
  End end(int signal = 0, Duration runs = {});

  Process& process() { return *process_; }
  std::string control() const { return dir_.file("control"); }

 private:
  absl::Status connect();

  TempDir dir_;
  std::unique_ptr<Process> process_;
  UniqueFd connection_;  // Of ask().
};

// A disk that a program serves, and a VM's options for it.
class ServedDisk {
 public:
  // Errors: as start_disk.
  static absl::StatusOr<std::unique_ptr<ServedDisk>> start(DiskServer server,
                                                           uint64_t size,
                                                           uint32_t queues);
  // Kills it, and starts one in its place.
  void kill() { process_ = nullptr; }
  absl::Status start_again();
  // Makes all of it zero, behind its back; false: that failed.
  bool overwrite() const;

  std::string socket() const { return dir_.file("disk.sock"); }
  Process& process() { return *process_; }

 private:
  TempDir dir_;
  DiskServer server_ = DiskServer::kModel;
  uint32_t queues_ = 1;
  std::unique_ptr<Process> process_;
};

// A minivm with a disk that a program serves.
class VmProgramTest : public ::testing::Test {
 protected:
  absl::Status ctl(std::vector<std::string> words) {
    return vm_->ctl(std::move(words)).status();
  }
  // Ends the VM, and looks that nothing was wrong.  Its report.
  nlohmann::json end_well(int signal = SIGTERM, Duration runs = {});

  std::unique_ptr<ServedDisk> disk_;
  std::unique_ptr<VmProgram> vm_;
};

}  // namespace vhost::testing

#endif  // TESTS_MINIVM_VM_PROGRAM_H_
