// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/supervisor.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <optional>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr Duration kLook = std::chrono::milliseconds(1);

// When the file was written to last, in nanoseconds.
int64_t changed_at(const std::string& path) {
  struct stat about = {};
  if (::stat(path.c_str(), &about) != 0) return 0;
  return int64_t{about.st_mtim.tv_sec} * 1'000'000'000 + about.st_mtim.tv_nsec;
}

}  // namespace

absl::Status Supervisor::start(const std::vector<std::string>& more) {
  kill();
  changed_ = changed_at(image_);
  std::vector<std::string> argv = command_;
  argv.insert(argv.end(), more.begin(), more.end());
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::start(argv, {.in = {},
                            .out = FdRef(STDERR_FILENO),
                            .err = FdRef(STDERR_FILENO),
                            .extra = {}});
  if (!process.ok()) return process.status();
  process_ = *std::move(process);
  ++started_;
  return absl::OkStatus();
}

absl::StatusOr<bool> Supervisor::wait_for_writes() {
  const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    if (process_->wait(kLook).has_value()) return false;
    if (changed_at(image_) != changed_) return true;
  }
  return absl::DeadlineExceededError(
      absl::StrCat("back-end ", started_, " writes nothing"));
}

bool Supervisor::ends_in(Duration time) {
  return process_->wait(time).has_value();
}

void Supervisor::kill() {
  if (process_ == nullptr) return;
  process_->signal(SIGKILL);
  process_->wait(kPatience);
  process_ = nullptr;
}

}  // namespace vhost::testing
