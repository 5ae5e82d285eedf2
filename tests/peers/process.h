// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_PROCESS_H_
#define TESTS_PEERS_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A folder of its own for one test; removed with all that is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string file(absl::string_view name) const;

 private:
  std::string path_;
};

// A program that runs beside the test; killed, by its id, when this goes or the
// test dies.
class Process {
 public:
  // What it inherits.  Descriptors that are not valid are /dev/null.
  struct Streams {
    FdRef in;
    FdRef out;
    FdRef err;
    // A descriptor and the number the program sees it as, above 2.
    FdRef extra;
    int extra_as = -1;
  };

  // Errors: kNotFound  no such program (not on the PATH, or no such file).
  static absl::StatusOr<std::unique_ptr<Process>> start(
      const std::vector<std::string>& argv, const Streams& streams);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number);

  // Stops it (SIGSTOP); when this returns none of it runs any more.
  void freeze();
  // Whether each of its threads is stopped.
  bool frozen() const;
  pid_t pid() const { return pid_; }

  // The exit status, or 128 + the signal it died of; nothing if it still runs
  // after `timeout`.
  std::optional<int> wait(Duration timeout);

 private:
  Process(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

  pid_t pid_;
  UniqueFd pidfd_;
  std::optional<int> exit_;
};

// Where `program` is: beside this test, or on the PATH, unless it is a path
// itself; empty if nowhere.
std::string find_program(const std::string& program);

// What a program that ran to its end left behind.
struct Finished {
  int exit = -1;  // -1: it could not be started, or did not end in time.
  std::string out;
  std::string err;
  Duration took{};
};

// Runs a program to its end, one minute at most.
struct RunOptions {
  std::string input = {};
  FdRef out = {};  // Valid: standard output goes there instead.
  FdRef extra = {};
  int extra_as = -1;
};
Finished run_program(const std::vector<std::string>& argv,
                     const RunOptions& options = {});

}  // namespace vhost::testing

#endif  // TESTS_PEERS_PROCESS_H_
