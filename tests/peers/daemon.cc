// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/daemon.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

// A daemon on a busy machine, under a sanitizer.
constexpr Duration kStartTimeout = std::chrono::seconds(20);

bool connects(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                   sizeof(address)) == 0;
}

absl::StatusOr<std::unique_ptr<Process>> start_and_wait(
    const std::vector<std::string>& argv, const std::string& socket) {
  // Errors of a daemon belong to the test's output.
  absl::StatusOr<std::unique_ptr<Process>> process =
      Process::start(argv, {.in = {},
                            .out = FdRef(STDERR_FILENO),
                            .err = FdRef(STDERR_FILENO),
                            .extra = {}});
  if (!process.ok()) return process.status();
  const MonotonicTime deadline =
      std::chrono::steady_clock::now() + kStartTimeout;
  while (!connects(socket)) {
    // Waiting for its end is the pause between two tries.
    const std::optional<int> ended =
        (*process)->wait(std::chrono::milliseconds(2));
    if (ended.has_value()) {
      return absl::UnavailableError(
          absl::StrCat(argv[0], " ended with exit status ", *ended));
    }
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(argv[0], " does not listen"));
    }
  }
  return process;
}

std::vector<std::string> qemu_command(const std::string& blockdev,
                                      const std::string& socket,
                                      uint32_t queues) {
  return {program_of(DiskServer::kQemu), "--blockdev", blockdev, "--export",
          absl::StrCat("type=vhost-user-blk,id=export,node-name=disk,"
                       "addr.type=unix,addr.path=",
                       socket, ",writable=on,num-queues=", queues)};
}

}  // namespace

std::string program_of(DiskServer server) {
  return server == DiskServer::kQemu ? "qemu-storage-daemon"
                                     : "vhost-model-blk";
}

absl::Status check_installed(DiskServer server) {
  if (!find_program(program_of(server)).empty()) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(program_of(server), " is not installed"));
}

absl::Status make_image(const std::string& path, uint64_t size) {
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return errno_status(errno, path);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) == 0) {
    return absl::OkStatus();
  }
  return errno_status(errno, path);
}

std::vector<std::string> disk_command(DiskServer server,
                                      const std::string& image,
                                      const std::string& socket,
                                      uint32_t queues) {
  if (server == DiskServer::kQemu) {
    const std::string blockdev = absl::StrCat(
        "driver=file,node-name=disk,discard=unmap,locking=off,filename=",
        image);
    return qemu_command(blockdev, socket, queues);
  }
  return {program_of(server), absl::StrCat("--socket-path=", socket),
          absl::StrCat("--blk-file=", image),
          absl::StrCat("--queues=", queues)};
}

absl::StatusOr<std::unique_ptr<Process>> start_disk(DiskServer server,
                                                    const std::string& image,
                                                    const std::string& socket,
                                                    uint32_t queues) {
  return start_and_wait(disk_command(server, image, socket, queues), socket);
}

absl::StatusOr<std::unique_ptr<Process>> start_slow_disk(
    Duration latency, const std::string& socket) {
  const std::string blockdev = absl::StrCat(
      "driver=null-co,node-name=disk,size=1048576,read-zeroes=on,latency-ns=",
      latency.count());
  return start_and_wait(qemu_command(blockdev, socket, 1), socket);
}

}  // namespace vhost::testing
