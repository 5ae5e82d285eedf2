// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_SIGPIPE_HELD_H_
#define HW_VIRTIO_SIGPIPE_HELD_H_

#include <signal.h>

#include <ctime>

namespace vhost {

// Holds SIGPIPE back from this thread while it exists, and drops one that came
// meanwhile: a write to a pipe whose reader is gone fails, and that is all.
// splice() has no MSG_NOSIGNAL.
class SigpipeHeld {
 public:
  SigpipeHeld() {
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  ~SigpipeHeld() {
    const timespec at_once = {};
    if (!was_pending_) sigtimedwait(&sigpipe_, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigpipeHeld(const SigpipeHeld&) = delete;
  SigpipeHeld& operator=(const SigpipeHeld&) = delete;

 private:
  sigset_t sigpipe_;
  sigset_t before_;
  bool was_pending_ = false;
};

}  // namespace vhost

#endif  // HW_VIRTIO_SIGPIPE_HELD_H_
