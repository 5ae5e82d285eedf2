// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/recording_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/vhostctl/output.h"

namespace vhost::ctl {
namespace {

// Where the kernel says that `fd` leads: "/memfd:name", "anon_inode:[eventfd]".
std::string link_of(int fd) {
  std::array<char, 256> out = {};
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  const ssize_t size = ::readlink(path.c_str(), out.data(), out.size());
  return size <= 0 ? std::string()
                   : std::string(out.data(), static_cast<size_t>(size));
}

RecordedFd describe_fd(const UniqueFd& fd) {
  RecordedFd out;
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return out;
  if (S_ISSOCK(info.st_mode)) return {.kind = FdKind::kSocket};
  if (S_ISFIFO(info.st_mode)) return {.kind = FdKind::kPipe};
  const std::string link = link_of(fd.get());
  if (S_ISREG(info.st_mode)) {
    out.kind =
        absl::StartsWith(link, "/memfd:") ? FdKind::kMemfd : FdKind::kFile;
    out.size = static_cast<uint64_t>(info.st_size);
  } else if (link == "anon_inode:[eventfd]") {
    out.kind = FdKind::kEventfd;
  } else if (link == "anon_inode:[userfaultfd]") {
    out.kind = FdKind::kUserfaultfd;
  }
  return out;
}

}  // namespace

absl::StatusOr<RecordingFile> RecordingFile::create(const std::string& path) {
  absl::StatusOr<UniqueFd> file = open_output(path);
  if (!file.ok()) return file.status();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto began =
      std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  RecordingFile out(*std::move(file), std::chrono::steady_clock::now());
  const absl::Status written = write_full(
      out.file_, encode_recording_header(static_cast<uint64_t>(began)));
  if (!written.ok()) return written;
  return out;
}

void RecordingFile::add(Event event) {
  if (!status_.ok()) return;
  event.time = static_cast<uint64_t>(
      Duration(std::chrono::steady_clock::now() - began_).count());
  // In one write: a record is there or not.
  status_ = write_full(file_, encode_event(event));
}

std::vector<RecordedFd> describe_fds(std::span<const UniqueFd> fds) {
  std::vector<RecordedFd> out;
  for (const UniqueFd& fd : fds) out.push_back(describe_fd(fd));
  return out;
}

}  // namespace vhost::ctl
