// SPDX-License-Identifier: Apache-2.0
//
// The functions of the C library that can wait, each of them defined here and
// thereby in place of the library's in the whole program.
#include "tests/async/blocking_seam.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <utility>

#include "absl/debugging/symbolize.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace vhost::async {
namespace {

thread_local int depth = 0;
thread_local std::vector<std::string>* calls = nullptr;

std::string stack() {
  constexpr int kMost = 48;
  void* frames[kMost];
  const int count = ::backtrace(frames, kMost);
  std::string out;
  for (int i = 2; i < count; ++i) {
    char name[512] = "?";
    absl::Symbolize(frames[i], name, sizeof(name));
    absl::StrAppend(&out, "\n    ", name);
  }
  return out;
}

bool watching() { return depth > 0; }

void note(const char* name) {
  if (!watching()) return;
  const int outside = std::exchange(depth, 0);
  if (calls == nullptr) calls = new std::vector<std::string>();
  calls->push_back(absl::StrCat(name, " may wait", stack()));
  depth = outside;
}

// A lock that another thread holds for a moment is none of our business; what
// waits for another thread to do something is.
void note_futex() {
  if (!watching()) return;
  const int outside = std::exchange(depth, 0);
  const std::string from = stack();
  depth = outside;
  const bool for_news = absl::StrContains(from, "CondVar") ||
                        absl::StrContains(from, "Await") ||
                        absl::StrContains(from, "LockWhen");
  const bool for_lock = absl::StrContains(from, "Mutex::LockSlow") ||
                        absl::StrContains(from, "g_mutex_lock");
  if (for_news || !for_lock) note("futex");
}

// Whether reading from or writing to `fd` may have to wait.
bool may_wait(int fd) {
  const long flags = ::syscall(SYS_fcntl, fd, F_GETFL);
  if (flags < 0 || (flags & O_NONBLOCK) != 0) return false;
  struct stat info;
  return ::fstat(fd, &info) == 0 && !S_ISREG(info.st_mode);
}

void note_if(bool waits, const char* name) {
  if (waits) note(name);
}

void note_io(const char* name, int fd, int flags = 0) {
  if (watching() && (flags & MSG_DONTWAIT) == 0) note_if(may_wait(fd), name);
}

// Not regular files either, whatever may_wait() thinks of them: a disk has its
// own pace.  Only files in memory have seals.
void note_unless_memory(const char* name, int fd) {
  if (watching()) note_if(::syscall(SYS_fcntl, fd, F_GET_SEALS) < 0, name);
}

// Of open(), which has one only if it can make a file.
mode_t mode_of(int flags, va_list arguments) {
  const bool makes = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return makes ? va_arg(arguments, mode_t) : 0;
}

bool is_zero(const timespec* time) {
  return time != nullptr && time->tv_sec == 0 && time->tv_nsec == 0;
}

// What the C library has under `name`.
template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

NoWaiting::NoWaiting() { ++depth; }
NoWaiting::~NoWaiting() { --depth; }

std::vector<std::string> NoWaiting::take_calls() {
  if (calls == nullptr) return {};
  std::vector<std::string> out = std::move(*calls);
  delete std::exchange(calls, nullptr);
  return out;
}

}  // namespace vhost::async

using vhost::async::is_zero;
using vhost::async::mode_of;
using vhost::async::next;
using vhost::async::note;
using vhost::async::note_futex;
using vhost::async::note_if;
using vhost::async::note_io;
using vhost::async::note_unless_memory;

// The real function of the name of the one that this is used in.
#define REAL(name) \
  static auto* const real_##name = next<decltype(::name)>(#name)

extern "C" {

// ---------------------------------------------------------------------------
// Waiting for descriptors
// ---------------------------------------------------------------------------

int poll(pollfd* fds, nfds_t count, int timeout) {
  REAL(poll);
  note_if(timeout != 0, "poll");
  return real_poll(fds, count, timeout);
}

int ppoll(pollfd* fds, nfds_t count, const timespec* timeout,
          const sigset_t* signals) {
  REAL(ppoll);
  note_if(!is_zero(timeout), "ppoll");
  return real_ppoll(fds, count, timeout, signals);
}

int select(int count, fd_set* in, fd_set* out, fd_set* other,
           timeval* timeout) {
  REAL(select);
  const bool zero =
      timeout != nullptr && timeout->tv_sec == 0 && timeout->tv_usec == 0;
  note_if(!zero, "select");
  return real_select(count, in, out, other, timeout);
}

int pselect(int count, fd_set* in, fd_set* out, fd_set* other,
            const timespec* timeout, const sigset_t* signals) {
  REAL(pselect);
  note_if(!is_zero(timeout), "pselect");
  return real_pselect(count, in, out, other, timeout, signals);
}

int epoll_wait(int fd, epoll_event* events, int count, int timeout) {
  REAL(epoll_wait);
  note_if(timeout != 0, "epoll_wait");
  return real_epoll_wait(fd, events, count, timeout);
}

int epoll_pwait(int fd, epoll_event* events, int count, int timeout,
                const sigset_t* signals) {
  REAL(epoll_pwait);
  note_if(timeout != 0, "epoll_pwait");
  return real_epoll_pwait(fd, events, count, timeout, signals);
}

int epoll_pwait2(int fd, epoll_event* events, int count,
                 const timespec* timeout, const sigset_t* signals) {
  REAL(epoll_pwait2);
  note_if(!is_zero(timeout), "epoll_pwait2");
  return real_epoll_pwait2(fd, events, count, timeout, signals);
}

// ---------------------------------------------------------------------------
// Input and output
// ---------------------------------------------------------------------------

ssize_t read(int fd, void* to, size_t size) {
  REAL(read);
  note_io("read", fd);
  return real_read(fd, to, size);
}

ssize_t readv(int fd, const iovec* to, int count) {
  REAL(readv);
  note_io("readv", fd);
  return real_readv(fd, to, count);
}

ssize_t write(int fd, const void* from, size_t size) {
  REAL(write);
  note_io("write", fd);
  return real_write(fd, from, size);
}

ssize_t writev(int fd, const iovec* from, int count) {
  REAL(writev);
  note_io("writev", fd);
  return real_writev(fd, from, count);
}

ssize_t recv(int fd, void* to, size_t size, int flags) {
  REAL(recv);
  note_io("recv", fd, flags);
  return real_recv(fd, to, size, flags);
}

ssize_t recvfrom(int fd, void* to, size_t size, int flags, sockaddr* address,
                 socklen_t* length) {
  REAL(recvfrom);
  note_io("recvfrom", fd, flags);
  return real_recvfrom(fd, to, size, flags, address, length);
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
  REAL(recvmsg);
  note_io("recvmsg", fd, flags);
  return real_recvmsg(fd, message, flags);
}

ssize_t send(int fd, const void* from, size_t size, int flags) {
  REAL(send);
  note_io("send", fd, flags);
  return real_send(fd, from, size, flags);
}

ssize_t sendto(int fd, const void* from, size_t size, int flags,
               const sockaddr* address, socklen_t length) {
  REAL(sendto);
  note_io("sendto", fd, flags);
  return real_sendto(fd, from, size, flags, address, length);
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  REAL(sendmsg);
  note_io("sendmsg", fd, flags);
  return real_sendmsg(fd, message, flags);
}

int connect(int fd, const sockaddr* address, socklen_t length) {
  REAL(connect);
  note_io("connect", fd);
  return real_connect(fd, address, length);
}

int accept(int fd, sockaddr* address, socklen_t* length) {
  REAL(accept);
  note_io("accept", fd);
  return real_accept(fd, address, length);
}

int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  REAL(accept4);
  note_io("accept4", fd);
  return real_accept4(fd, address, length, flags);
}

int fsync(int fd) {
  REAL(fsync);
  note("fsync");
  return real_fsync(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  note("fdatasync");
  return real_fdatasync(fd);
}

int msync(void* from, size_t size, int flags) {
  REAL(msync);
  note_if((flags & MS_SYNC) != 0, "msync");
  return real_msync(from, size, flags);
}

// ---------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------

ssize_t pread(int fd, void* to, size_t size, off_t offset) {
  REAL(pread);
  note_unless_memory("pread", fd);
  return real_pread(fd, to, size, offset);
}

ssize_t pwrite(int fd, const void* from, size_t size, off_t offset) {
  REAL(pwrite);
  note_unless_memory("pwrite", fd);
  return real_pwrite(fd, from, size, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
  REAL(fallocate);
  note_unless_memory("fallocate", fd);
  return real_fallocate(fd, mode, offset, size);
}

// A name may lead to a network, or to a pipe.
int open(const char* path, int flags, ...) {
  REAL(open);
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  note("open");
  return real_open(path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
  REAL(openat);
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  note("openat");
  return real_openat(folder, path, flags, mode);
}

// ---------------------------------------------------------------------------
// Locks of files
// ---------------------------------------------------------------------------

int flock(int fd, int operation) noexcept {
  REAL(flock);
  note_if((operation & LOCK_NB) == 0 && operation != LOCK_UN, "flock");
  return real_flock(fd, operation);
}

int lockf(int fd, int command, off_t size) {
  REAL(lockf);
  note_if(command == F_LOCK, "lockf");
  return real_lockf(fd, command, size);
}

int fcntl(int fd, int command, ...) {
  REAL(fcntl);
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  note_if(command == F_SETLKW || command == F_OFD_SETLKW, "fcntl(F_SETLKW)");
  return real_fcntl(fd, command, argument);
}

// ---------------------------------------------------------------------------
// Time, signals and processes
// ---------------------------------------------------------------------------

int nanosleep(const timespec* time, timespec* left) {
  REAL(nanosleep);
  note("nanosleep");
  return real_nanosleep(time, left);
}

int clock_nanosleep(clockid_t clock, int flags, const timespec* time,
                    timespec* left) {
  REAL(clock_nanosleep);
  note("clock_nanosleep");
  return real_clock_nanosleep(clock, flags, time, left);
}

int usleep(useconds_t time) {
  REAL(usleep);
  note("usleep");
  return real_usleep(time);
}

unsigned sleep(unsigned seconds) {
  REAL(sleep);
  note("sleep");
  return real_sleep(seconds);
}

int pause() {
  REAL(pause);
  note("pause");
  return real_pause();
}

int sigsuspend(const sigset_t* signals) {
  REAL(sigsuspend);
  note("sigsuspend");
  return real_sigsuspend(signals);
}

int sigtimedwait(const sigset_t* signals, siginfo_t* info,
                 const timespec* timeout) {
  REAL(sigtimedwait);
  note_if(!is_zero(timeout), "sigtimedwait");
  return real_sigtimedwait(signals, info, timeout);
}

pid_t waitpid(pid_t pid, int* status, int options) {
  REAL(waitpid);
  note_if((options & WNOHANG) == 0, "waitpid");
  return real_waitpid(pid, status, options);
}

int waitid(idtype_t type, id_t id, siginfo_t* info, int options) {
  REAL(waitid);
  note_if((options & WNOHANG) == 0, "waitid");
  return real_waitid(type, id, info, options);
}

// ---------------------------------------------------------------------------
// Other threads
// ---------------------------------------------------------------------------

int pthread_join(pthread_t thread, void** result) {
  REAL(pthread_join);
  note("pthread_join");
  return real_pthread_join(thread, result);
}

int pthread_cond_wait(pthread_cond_t* condition, pthread_mutex_t* mutex) {
  REAL(pthread_cond_wait);
  note("pthread_cond_wait");
  return real_pthread_cond_wait(condition, mutex);
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           const timespec* until) {
  REAL(pthread_cond_timedwait);
  note("pthread_cond_timedwait");
  return real_pthread_cond_timedwait(condition, mutex, until);
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           clockid_t clock, const timespec* until) {
  REAL(pthread_cond_clockwait);
  note("pthread_cond_clockwait");
  return real_pthread_cond_clockwait(condition, mutex, clock, until);
}

int sem_wait(sem_t* semaphore) {
  REAL(sem_wait);
  note("sem_wait");
  return real_sem_wait(semaphore);
}

int sem_timedwait(sem_t* semaphore, const timespec* until) {
  REAL(sem_timedwait);
  note("sem_timedwait");
  return real_sem_timedwait(semaphore, until);
}

// Abseil's locks and condition variables, and GLib's, wait in this one.  It
// takes more arguments than there may be, as the library's does: those behind
// them are whatever lies there.
__attribute__((no_sanitize("address"))) long syscall(long number,
                                                     ...) noexcept {
  REAL(syscall);
  va_list arguments;
  va_start(arguments, number);
  long rest[6];
  for (long& argument : rest) argument = va_arg(arguments, long);
  va_end(arguments);
  const long operation = rest[1] & FUTEX_CMD_MASK;
  const bool waits = number == SYS_futex && (operation == FUTEX_WAIT ||
                                             operation == FUTEX_WAIT_BITSET);
  if (waits) note_futex();
  return real_syscall(number, rest[0], rest[1], rest[2], rest[3], rest[4],
                      rest[5]);
}

}  // extern "C"
