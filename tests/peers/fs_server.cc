// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/fs_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr char kQemuProgram[] = "/usr/lib/qemu/virtiofsd";
constexpr char kTrixie[] = VHOSTDEV_PEERS "/root";
// As the program sees it.
constexpr int kListenFd = 3;

std::string trixie_file(absl::string_view path) {
  return absl::StrCat(kTrixie, path);
}

std::string why_no_trixie() {
  std::ifstream file(VHOSTDEV_PEERS "/why");
  std::string why;
  return std::getline(file, why) ? why : "tests/peers/trixie.sh was not run";
}

// A program of another release brings its own libraries, which are found
// without touching the host's.
std::vector<std::string> rust_command() {
  return {trixie_file("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
          "--library-path", trixie_file("/usr/lib/x86_64-linux-gnu"),
          trixie_file("/usr/libexec/virtiofsd")};
}

absl::StatusOr<UniqueFd> listen_on(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::listen(fd.get(), 1) != 0) {
    return errno_status(errno, path);
  }
  return fd;
}

}  // namespace

std::string name_of(FsServer server) {
  return server == FsServer::kQemu ? "Qemu" : "Rust";
}

absl::Status check_installed(FsServer server) {
  if (server == FsServer::kRust) {
    if (!find_program(rust_command().back()).empty()) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrCat("virtiofsd 1.13 is not there: ", why_no_trixie()));
  }
  if (find_program(kQemuProgram).empty()) {
    return absl::NotFoundError(absl::StrCat(kQemuProgram, " is not installed"));
  }
  if (::geteuid() != 0) {
    return absl::NotFoundError(
        absl::StrCat(kQemuProgram, " can be started only by root"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Process>> start_fs(FsServer server,
                                                  const std::string& folder,
                                                  const std::string& socket) {
  const absl::StatusOr<UniqueFd> listening = listen_on(socket);
  if (!listening.ok()) return listening.status();
  std::vector<std::string> command;
  if (server == FsServer::kQemu) {
    command = {kQemuProgram,
               "-o",
               absl::StrCat("source=", folder),
               "-o",
               "sandbox=chroot",
               "-o",
               "log_level=err"};
  } else {
    command = rust_command();
    command.insert(command.end(), {absl::StrCat("--shared-dir=", folder),
                                   "--sandbox=none", "--log-level=error"});
  }
  command.push_back(absl::StrCat("--fd=", kListenFd));
  return Process::start(command, {.in = {},
                                  .out = FdRef(STDERR_FILENO),
                                  .err = FdRef(STDERR_FILENO),
                                  .extra = *listening,
                                  .extra_as = kListenFd});
}

}  // namespace vhost::testing
