// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/testpmd.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <ios>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr char kProgram[] = "dpdk-testpmd";
// On a busy machine.
constexpr Duration kStartTimeout = std::chrono::seconds(20);
constexpr size_t kLogBytes = 2000;

// What it prints when its ports are started and its cores forward.
constexpr char kForwards[] = "Press enter to exit";

// All of the file behind `offset`.
std::string read_from(const std::string& path, std::streamoff offset) {
  std::ifstream file(path);
  file.seekg(offset);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

absl::Status Testpmd::check_installed() {
  if (!find_program(kProgram).empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(kProgram, " is not installed"));
}

absl::StatusOr<std::unique_ptr<Testpmd>> Testpmd::start(
    const TempDir& dir, const Options& options) {
  std::unique_ptr<Testpmd> out(new Testpmd(options));
  out->log_path_ = dir.file("testpmd.log");
  const std::string pairs = absl::StrCat(options.pairs);
  // A line at a time, so that what it prints can be waited for.  Nothing is
  // shared with others that have the same prefix.
  std::vector<std::string> argv = {
      "stdbuf",    "-oL",         kProgram,
      "--no-huge", "--no-shconf", "--no-telemetry",
      "--no-pci",  "-m",          "256",
      "-l",        "0,1",         "--file-prefix=vhostdev"};
  for (size_t i = 0; i < 2; ++i) {
    out->sockets_[i] = dir.file(absl::StrCat("net", i, ".sock"));
    // What a predecessor that was killed left behind; it binds over nothing.
    if (!options.connects) ::unlink(out->sockets_[i].c_str());
    argv.push_back("--vdev");
    argv.push_back(absl::StrCat("net_vhost", i, ",iface=", out->sockets_[i],
                                ",queues=", pairs,
                                options.connects ? ",client=1" : ""));
  }
  for (const std::string& argument :
       {std::string("--"), std::string("--auto-start"),
        std::string("--forward-mode=io"), std::string("--no-mlockall"),
        // It would wait for front-ends.
        std::string("--disable-link-check"),
        std::string("--total-num-mbufs=4096"), absl::StrCat("--rxq=", pairs),
        absl::StrCat("--txq=", pairs)}) {
    argv.push_back(argument);
  }
  const UniqueFd log(::open(out->log_path_.c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.valid()) return errno_status(errno, out->log_path_);
  // Behind what a predecessor said.
  out->log_begin_ = ::lseek(log.get(), 0, SEEK_END);
  std::array<int, 2> ends = {-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  const UniqueFd its_input(ends[0]);
  out->input_ = UniqueFd(ends[1]);
  absl::StatusOr<std::unique_ptr<Process>> process = Process::start(
      argv, {.in = its_input, .out = log, .err = log, .extra = {}});
  if (!process.ok()) return process.status();
  out->process_ = *std::move(process);
  VHOST_RETURN_IF_ERROR(out->wait_until_it_forwards());
  return out;
}

// Its sockets listen before its ports are started, and a front-end that comes
// between may find a port that never forwards.
absl::Status Testpmd::wait_until_it_forwards() {
  const MonotonicTime deadline =
      std::chrono::steady_clock::now() + kStartTimeout;
  while (read_from(log_path_, log_begin_).find(kForwards) ==
         std::string::npos) {
    // Waiting for its end is the pause between two looks.
    const std::optional<int> ended =
        process_->wait(std::chrono::milliseconds(5));
    if (ended.has_value()) {
      return absl::UnavailableError(absl::StrCat(
          kProgram, " ended with exit status ", *ended, ": ", log()));
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(kProgram, " does not forward: ", log()));
    }
  }
  return absl::OkStatus();
}

VhostUserAddress Testpmd::address(uint32_t port) const {
  if (options_.connects) return ListenOn{sockets_[port]};
  return ConnectTo{sockets_[port]};
}

std::string Testpmd::log() const {
  const std::string all = read_from(log_path_, 0);
  return all.size() > kLogBytes ? all.substr(all.size() - kLogBytes) : all;
}

}  // namespace vhost::testing
