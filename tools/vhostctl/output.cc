// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "vhostdev/flight_record.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// Whether a failed read or write is worth another try; a descriptor that was
// handed to us non-blocking is waited for.
bool try_again(FdRef fd, short events) {
  if (errno == EINTR) return true;
  if (errno != EAGAIN) return false;
  pollfd waited = {.fd = fd.get(), .events = events, .revents = 0};
  return ::poll(&waited, 1, -1) >= 0 || errno == EINTR;
}

absl::StatusOr<UniqueFd> duplicate(int fd) {
  UniqueFd out(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!out.valid()) {
    return errno_status(errno, absl::StrCat("descriptor ", fd));
  }
  return out;
}

void complain(absl::string_view text) {
  // There is nowhere to report a failure to.
  static_cast<void>(
      write_full(FdRef(STDERR_FILENO),
                 std::as_bytes(std::span(text.data(), text.size()))));
}

}  // namespace

void occupy_standard_descriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    // The lowest free number is `fd`.  Not O_CLOEXEC: it is a standard one.
    static_cast<void>(::open("/dev/null", O_RDONLY));
  }
}

absl::StatusOr<UniqueFd> open_input(const std::string& path) {
  if (path == "-") return duplicate(STDIN_FILENO);
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_status(errno, path);
  return fd;
}

absl::StatusOr<UniqueFd> open_output(const std::string& path) {
  if (path == "-") return duplicate(STDOUT_FILENO);
  UniqueFd fd(
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return errno_status(errno, path);
  return fd;
}

absl::StatusOr<size_t> read_full(FdRef fd, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = ::read(fd.get(), out.data() + done, out.size() - done);
    if (got == 0) break;
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (!try_again(fd, POLLIN)) {
      return errno_status(errno, "read input");
    }
  }
  return done;
}

absl::Status write_full(FdRef fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd.get(), bytes.data(), bytes.size());
    if (put >= 0) {
      bytes = bytes.subspan(static_cast<size_t>(put));
    } else if (!try_again(fd, POLLOUT)) {
      return errno_status(errno, "write output");
    }
  }
  return absl::OkStatus();
}

absl::Status print_text(absl::string_view text) {
  return write_full(FdRef(STDOUT_FILENO),
                    std::as_bytes(std::span(text.data(), text.size())));
}

absl::Status print_json(const Json& document) {
  // A back-end's strings need not be UTF-8, and without exceptions the library
  // would abort on them.
  const std::string text =
      document.dump(2, ' ', false, Json::error_handler_t::replace);
  return print_text(absl::StrCat(text, "\n"));
}

std::string printable(absl::string_view text) { return absl::CHexEscape(text); }

void print_error(const absl::Status& status, absl::string_view program) {
  complain(absl::StrCat(program, ": ", absl::StatusCodeToString(status.code()),
                        ": ", printable(status.message()), "\n"));
}

void print_flight_record(const absl::Status& status) {
  const std::string record = flight_record_of(status);
  std::string out;
  for (const absl::string_view line : absl::StrSplit(record, '\n')) {
    if (!line.empty()) absl::StrAppend(&out, printable(line), "\n");
  }
  complain(out);
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB",
                                                 "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " bytes");
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace vhost::ctl
