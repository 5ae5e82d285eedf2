// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_REQUEST_DRAIN_H_
#define VHOSTDEV_REQUEST_DRAIN_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {

// Between the halt of a guest and the stop of its devices: waits, while the
// back-ends still run, until no request is left that a stop might lose.  A
// guest need not be asked for anything: what it submitted before it was halted
// comes to an end by itself.
//
// A back-end that is stopped in the middle of requests may say that it stopped
// and lose them (qemu-storage-daemon); then nobody knows which of them were
// done, and the guest has to reset the device.  Where this wait ends in an
// error no device was touched, and the guest can go on.
//
// Thread: the loop's.  Destroying it ends the wait, the completion uncalled.
class RequestDrain {
 public:
  // The devices outlive it.
  RequestDrain(EventLoop& loop, std::vector<VhostDev*> devices);
  ~RequestDrain();
  RequestDrain(const RequestDrain&) = delete;
  RequestDrain& operator=(const RequestDrain&) = delete;

  // Whether nothing is left now.
  bool over() const;

  // Kicks the queues of a device that has requests once, because a guest may
  // have been halted before its kick, and looks again and again.  `done` is
  // never called before this returned, and may destroy the drain.  Once.
  // Errors: kFailedPrecondition  "blk0: vq 2: 3 requests not drained", after
  //                              `limit`.
  //         of a kick that failed.
  void wait(Duration limit, Completion done);

 private:
  absl::Status look() const;
  void look_again();

  EventLoop& loop_;
  const std::vector<VhostDev*> devices_;
  MonotonicTime end_;
  Completion done_;
  std::unique_ptr<EventLoop::Timer> timer_;
};

}  // namespace vhost

#endif  // VHOSTDEV_REQUEST_DRAIN_H_
