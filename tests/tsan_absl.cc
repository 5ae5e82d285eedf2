// SPDX-License-Identifier: Apache-2.0
//
// Debian's Abseil is compiled without ThreadSanitizer, so TSan does not see
// what an absl::Mutex orders and reports races that are none.  The tsan preset
// links every program with --wrap for the symbols below, which are listed in
// cmake/VhostdevTsan.cmake, and TSan is told here.

#include <sanitizer/tsan_interface.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace {

using Mutex = absl::Mutex*;
using CondVar = absl::CondVar*;
using Cond = const absl::Condition&;
using Note = absl::Notification*;

void acquire(const void* address) {
  __tsan_acquire(const_cast<void*>(address));
}
void release(const void* address) {
  __tsan_release(const_cast<void*>(address));
}

// The flag that Notification::HasBeenNotified() reads inline is the member
// behind its mutex.
const void* flag(Note note) {
  return reinterpret_cast<const char*>(note) + sizeof(absl::Mutex);
}

// Abseil looks for deadlocks too, under a lock of its own that TSan does not
// see either.  TSan does that itself.
[[maybe_unused]] const bool kLeaveDeadlocksToTsan = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

// The table of error texts is filled by the first who asks, under a guard of
// the same kind.  Filled here, before there are threads, it is only read.
[[maybe_unused]] const bool kErrorTextsAreFilled =
    !absl::ErrnoToStatus(EIO, "").ok();

}  // namespace

#define VHOST_WRAP(result, name, symbol, ...)                \
  result real_##name(__VA_ARGS__) __asm__("__real_" symbol); \
  result wrap_##name(__VA_ARGS__) __asm__("__wrap_" symbol); \
  result wrap_##name(__VA_ARGS__)
#define VHOST_MUTEX "_ZN4absl7debian35Mutex"
#define VHOST_CONDVAR "_ZN4absl7debian37CondVar"

VHOST_WRAP(void, lock, VHOST_MUTEX "4LockEv", Mutex m) {
  real_lock(m);
  acquire(m);
}

VHOST_WRAP(void, unlock, VHOST_MUTEX "6UnlockEv", Mutex m) {
  release(m);
  real_unlock(m);
}

VHOST_WRAP(bool, try_lock, VHOST_MUTEX "7TryLockEv", Mutex m) {
  const bool locked = real_try_lock(m);
  if (locked) acquire(m);
  return locked;
}

VHOST_WRAP(void, reader_lock, VHOST_MUTEX "10ReaderLockEv", Mutex m) {
  real_reader_lock(m);
  acquire(m);
}

VHOST_WRAP(void, reader_unlock, VHOST_MUTEX "12ReaderUnlockEv", Mutex m) {
  release(m);
  real_reader_unlock(m);
}

VHOST_WRAP(void, lock_when, VHOST_MUTEX "8LockWhenERKNS0_9ConditionE", Mutex m,
           Cond condition) {
  real_lock_when(m, condition);
  acquire(m);
}

VHOST_WRAP(void, await, VHOST_MUTEX "5AwaitERKNS0_9ConditionE", Mutex m,
           Cond condition) {
  release(m);
  real_await(m, condition);
  acquire(m);
}

VHOST_WRAP(bool, await_timeout,
           VHOST_MUTEX "16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
           Mutex m, Cond condition, absl::Duration timeout) {
  release(m);
  const bool met = real_await_timeout(m, condition, timeout);
  acquire(m);
  return met;
}

VHOST_WRAP(bool, await_deadline,
           VHOST_MUTEX "17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE",
           Mutex m, Cond condition, absl::Time deadline) {
  release(m);
  const bool met = real_await_deadline(m, condition, deadline);
  acquire(m);
  return met;
}

VHOST_WRAP(void, wait, VHOST_CONDVAR "4WaitEPNS0_5MutexE", CondVar c, Mutex m) {
  release(m);
  real_wait(c, m);
  acquire(m);
}

VHOST_WRAP(bool, wait_timeout,
           VHOST_CONDVAR "15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
           CondVar c, Mutex m, absl::Duration timeout) {
  release(m);
  const bool timed_out = real_wait_timeout(c, m, timeout);
  acquire(m);
  return timed_out;
}

VHOST_WRAP(bool, wait_deadline,
           VHOST_CONDVAR "16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", CondVar c,
           Mutex m, absl::Time deadline) {
  release(m);
  const bool timed_out = real_wait_deadline(c, m, deadline);
  acquire(m);
  return timed_out;
}

VHOST_WRAP(void, notify, "_ZN4absl7debian312Notification6NotifyEv", Note n) {
  release(flag(n));
  real_notify(n);
}

VHOST_WRAP(void, wait_note,
           "_ZNK4absl7debian312Notification19WaitForNotificationEv", Note n) {
  real_wait_note(n);
  acquire(flag(n));
}

VHOST_WRAP(bool, wait_note_timeout,
           "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeout"
           "ENS0_8DurationE",
           Note n, absl::Duration timeout) {
  const bool notified = real_wait_note_timeout(n, timeout);
  acquire(flag(n));
  return notified;
}
