# SPDX-License-Identifier: Apache-2.0
#
# ThreadSanitizer with an Abseil that was compiled without it: every program
# is linked with tests/tsan_absl.cc in between (see there).

set(vhostdev_tsan_wrapped
    _ZN4absl7debian35Mutex4LockEv
    _ZN4absl7debian35Mutex6UnlockEv
    _ZN4absl7debian35Mutex7TryLockEv
    _ZN4absl7debian35Mutex10ReaderLockEv
    _ZN4absl7debian35Mutex12ReaderUnlockEv
    _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE
    _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
    _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
    _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
    _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE
    _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE
    _ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE
    _ZN4absl7debian312Notification6NotifyEv
    _ZNK4absl7debian312Notification19WaitForNotificationEv
    _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE
)
add_library(vhostdev_tsan OBJECT ${PROJECT_SOURCE_DIR}/tests/tsan_absl.cc)
target_link_libraries(vhostdev_tsan PRIVATE absl::status absl::synchronization
                                            vhostdev_warnings)
target_sources(vhostdev_program INTERFACE $<TARGET_OBJECTS:vhostdev_tsan>)
foreach(symbol IN LISTS vhostdev_tsan_wrapped)
  target_link_options(vhostdev_program INTERFACE LINKER:--wrap=${symbol})
endforeach()
