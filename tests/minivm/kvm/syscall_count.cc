// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/kvm/syscall_count.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <new>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;  // With TRACESYSGOOD.

bool seize(pid_t thread) {
  return ::ptrace(PTRACE_SEIZE, thread, nullptr, PTRACE_O_TRACESYSGOOD) == 0 &&
         ::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr) == 0;
}

}  // namespace

SyscallCount::SyscallCount(Shared* shared, pid_t tracer)
    : shared_(shared), tracer_(tracer) {}

SyscallCount::~SyscallCount() {
  // The end of a tracer lets its thread go.
  ::kill(tracer_, SIGKILL);
  ::waitpid(tracer_, nullptr, 0);
  ::munmap(shared_, sizeof(Shared));
}

uint64_t SyscallCount::count() const { return shared_->count; }

absl::StatusOr<std::unique_ptr<SyscallCount>> SyscallCount::start() {
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return errno_status(errno, "mmap");
  Shared* shared = new (memory) Shared();
  // Where only parents may trace; an error there is one of an older kernel.
  static_cast<void>(::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0));
  const pid_t thread = ::gettid();
  const pid_t tracer = ::fork();
  if (tracer < 0) {
    const int error = errno;
    ::munmap(shared, sizeof(Shared));
    return errno_status(error, "fork");
  }
  if (tracer == 0) {
    trace(thread, *shared);
    ::_exit(0);
  }
  std::unique_ptr<SyscallCount> out(new SyscallCount(shared, tracer));
  while (shared->state == 0) ::usleep(1000);
  const int state = shared->state;
  if (state < 0) return errno_status(-state, "ptrace");
  return out;
}

// In the tracer: a fork of many threads, so nothing here but system calls.
void SyscallCount::trace(pid_t thread, Shared& shared) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  if (!seize(thread)) {
    shared.state = -errno;
    return;
  }
  bool inside = false;  // A call stops where it begins and where it ends.
  for (;;) {
    int status = 0;
    if (::waitpid(thread, &status, __WALL) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (!WIFSTOPPED(status)) return;
    int signal = 0;
    if (WSTOPSIG(status) == kSyscallStop) {
      inside = !inside;
      if (inside) ++shared.count;
    } else if (status >> 16 == 0) {
      signal = WSTOPSIG(status);  // On its way to the thread.
    }
    shared.state = 1;
    if (::ptrace(PTRACE_SYSCALL, thread, nullptr, signal) != 0) return;
  }
}

}  // namespace vhost::testing
