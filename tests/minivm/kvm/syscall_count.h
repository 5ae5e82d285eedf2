// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_KVM_SYSCALL_COUNT_H_
#define TESTS_MINIVM_KVM_SYSCALL_COUNT_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace vhost::testing {

// Counts the system calls of one thread of this process, the one that makes
// it: a process of its own traces the thread (ptrace), which costs the thread
// nothing where it makes none.
class SyscallCount {
 public:
  // Errors: kPermissionDenied  tracing is not allowed here.
  static absl::StatusOr<std::unique_ptr<SyscallCount>> start();
  // The thread is left alone again.
  ~SyscallCount();
  SyscallCount(const SyscallCount&) = delete;
  SyscallCount& operator=(const SyscallCount&) = delete;

  // Since start(); looking is none.
  uint64_t count() const;

 private:
  struct Shared {
    std::atomic<uint64_t> count;
    std::atomic<int> state;  // 0, then 1: it counts, or an errno negated.
  };
  SyscallCount(Shared* shared, pid_t tracer);

  static void trace(pid_t thread, Shared& shared);

  Shared* shared_;
  pid_t tracer_;
};

}  // namespace vhost::testing

#endif  // TESTS_MINIVM_KVM_SYSCALL_COUNT_H_
