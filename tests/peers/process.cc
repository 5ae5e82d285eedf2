// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr Duration kLongestRun = std::chrono::minutes(1);

int milliseconds(Duration timeout) {
  return static_cast<int>(
      std::chrono::ceil<std::chrono::milliseconds>(timeout).count());
}

// In the child, between fork and exec: system calls only.
void become(int from, int to) {
  if (from == to) {
    ::fcntl(to, F_SETFD, 0);
  } else {
    ::dup2(from, to);
  }
}

[[noreturn]] void exec_child(const Process::Streams& streams, int null,
                             pid_t parent, char* const* argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(126);
  std::signal(SIGPIPE, SIG_DFL);
  become(streams.in.valid() ? streams.in.get() : null, STDIN_FILENO);
  become(streams.out.valid() ? streams.out.get() : null, STDOUT_FILENO);
  become(streams.err.valid() ? streams.err.get() : null, STDERR_FILENO);
  if (streams.extra.valid()) become(streams.extra.get(), streams.extra_as);
  ::execv(argv[0], argv);
  ::_exit(127);
}

UniqueFd memory_file(const char* name) {
  return UniqueFd(::memfd_create(name, MFD_CLOEXEC));
}

std::string contents(FdRef file) {
  std::string out;
  std::array<char, 4096> piece;
  ssize_t got = 0;
  while ((got = ::pread(file.get(), piece.data(), piece.size(),
                        static_cast<off_t>(out.size()))) > 0) {
    out.append(piece.data(), static_cast<size_t>(got));
  }
  return out;
}

}  // namespace

TempDir::TempDir() {
  std::string pattern =
      (std::filesystem::temp_directory_path() / "vhostdev-XXXXXX").string();
  path_ = ::mkdtemp(pattern.data()) == nullptr ? "" : pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

std::string TempDir::file(absl::string_view name) const {
  return absl::StrCat(path_, "/", name);
}

absl::StatusOr<std::unique_ptr<Process>> Process::start(
    const std::vector<std::string>& argv, const Streams& streams) {
  const std::string program = find_program(argv[0]);
  if (program.empty()) {
    return absl::NotFoundError(absl::StrCat(argv[0], " is not installed"));
  }
  std::vector<std::string> copies = argv;
  copies[0] = program;
  std::vector<char*> pointers;
  for (std::string& copy : copies) pointers.push_back(copy.data());
  pointers.push_back(nullptr);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return errno_status(errno, "fork");
  if (pid == 0) exec_child(streams, null.get(), parent, pointers.data());
  UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  return std::unique_ptr<Process>(new Process(pid, std::move(pidfd)));
}

Process::~Process() {
  signal(SIGKILL);
  wait(kLongestRun);
}

void Process::signal(int number) {
  // Once reaped, the id may be somebody else's.
  if (!exit_.has_value()) ::kill(pid_, number);
}

void Process::freeze() {
  signal(SIGSTOP);
  if (exit_.has_value()) return;
  // The signal alone only begins it: other threads run on for a moment.
  siginfo_t info = {};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info,
                  WSTOPPED | WEXITED | WNOWAIT) != 0 &&
         errno == EINTR) {
  }
}

bool Process::frozen() const {
  std::error_code error;
  const std::filesystem::directory_iterator tasks(
      absl::StrCat("/proc/", pid_, "/task"), error);
  if (error) return false;
  for (const auto& task : tasks) {
    std::ifstream file(task.path() / "stat");
    std::string stat;
    std::getline(file, stat);
    // The state stands behind the name, which may hold anything.
    const size_t name_end = stat.rfind(") ");
    if (name_end == stat.npos || stat.size() <= name_end + 2 ||
        stat[name_end + 2] != 'T') {
      return false;
    }
  }
  return true;
}

std::optional<int> Process::wait(Duration timeout) {
  if (exit_.has_value()) return exit_;
  pollfd ended = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, milliseconds(timeout)) <= 0) return std::nullopt;
  int status = 0;
  if (::waitpid(pid_, &status, 0) != pid_) return std::nullopt;
  exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit_;
}

std::string find_program(const std::string& program) {
  namespace fs = std::filesystem;
  if (program.find('/') != program.npos) {
    return ::access(program.c_str(), X_OK) == 0 ? program : "";
  }
  std::error_code error;
  std::vector<std::string> folders = {
      fs::read_symlink("/proc/self/exe", error).parent_path().string()};
  const char* path = std::getenv("PATH");
  for (const absl::string_view folder :
       absl::StrSplit(path == nullptr ? "/usr/bin:/bin" : path, ':')) {
    folders.push_back(std::string(folder));
  }
  for (const std::string& folder : folders) {
    const std::string candidate = absl::StrCat(folder, "/", program);
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

Finished run_program(const std::vector<std::string>& argv,
                     const RunOptions& options) {
  const UniqueFd in = memory_file("in");
  const UniqueFd out = memory_file("out");
  const UniqueFd err = memory_file("err");
  Finished finished;
  if (::pwrite(in.get(), options.input.data(), options.input.size(), 0) !=
      static_cast<ssize_t>(options.input.size())) {
    return finished;
  }
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const auto process =
      Process::start(argv, {.in = in,
                            .out = options.out.valid() ? options.out : out,
                            .err = err,
                            .extra = options.extra,
                            .extra_as = options.extra_as});
  if (!process.ok()) {
    finished.err = std::string(process.status().message());
    return finished;
  }
  finished.exit = (*process)->wait(kLongestRun).value_or(-1);
  finished.took = std::chrono::steady_clock::now() - begun;
  finished.out = contents(out);
  finished.err = contents(err);
  return finished;
}

}  // namespace vhost::testing
