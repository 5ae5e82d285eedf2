// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/testpmd.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr char kProgram[] = "dpdk-testpmd";
// On a busy machine.
constexpr Duration kStartTimeout = std::chrono::seconds(20);
constexpr size_t kLogBytes = 2000;

// Asking the kernel takes no connection away from the first front-end.
bool listens(const std::string& path) {
  constexpr char kAcceptsConnections[] = "00010000";
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    std::istringstream words(line);
    const std::vector<std::string> fields{
        std::istream_iterator<std::string>(words), {}};
    if (fields.size() == 8 && fields[3] == kAcceptsConnections &&
        fields[7] == path) {
      return true;
    }
  }
  return false;
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
  // Nothing is shared with others that have the same prefix.
  std::vector<std::string> argv = {kProgram,      "--no-huge",
                                   "--no-shconf", "--no-telemetry",
                                   "--no-pci",    "-m",
                                   "256",         "-l",
                                   "0,1",         "--file-prefix=vhostdev"};
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
        std::string("--total-num-mbufs=4096"), absl::StrCat("--rxq=", pairs),
        absl::StrCat("--txq=", pairs)}) {
    argv.push_back(argument);
  }
  const UniqueFd log(::open(out->log_path_.c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.valid()) return errno_status(errno, out->log_path_);
  std::array<int, 2> ends = {-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  const UniqueFd its_input(ends[0]);
  out->input_ = UniqueFd(ends[1]);
  absl::StatusOr<std::unique_ptr<Process>> process = Process::start(
      argv, {.in = its_input, .out = log, .err = log, .extra = {}});
  if (!process.ok()) return process.status();
  out->process_ = *std::move(process);
  if (!options.connects) VHOST_RETURN_IF_ERROR(out->wait_until_it_listens());
  return out;
}

absl::Status Testpmd::wait_until_it_listens() {
  const MonotonicTime deadline =
      std::chrono::steady_clock::now() + kStartTimeout;
  while (!std::all_of(sockets_.begin(), sockets_.end(), listens)) {
    // Waiting for its end is the pause between two looks.
    const std::optional<int> ended =
        process_->wait(std::chrono::milliseconds(5));
    if (ended.has_value()) {
      return absl::UnavailableError(absl::StrCat(
          kProgram, " ended with exit status ", *ended, ": ", log()));
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(kProgram, " does not listen: ", log()));
    }
  }
  return absl::OkStatus();
}

VhostUserAddress Testpmd::address(uint32_t port) const {
  if (options_.connects) return ListenOn{sockets_[port]};
  return ConnectTo{sockets_[port]};
}

std::string Testpmd::log() const {
  std::ifstream file(log_path_);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  return all.size() > kLogBytes ? all.substr(all.size() - kLogBytes) : all;
}

}  // namespace vhost::testing
