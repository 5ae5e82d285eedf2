// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_QUEUE_SLEEP_H_
#define HW_DRIVER_QUEUE_SLEEP_H_

#include <poll.h>

#include <vector>

#include "vhostdev/event_loop.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// A sleep of who owns queues: until one of them signals, a loop has something
// to do, or it is late.  Keeps its room from one sleep to the next.
//
//   sleep.begin();
//   for (...) sleep.add(queue.handle());
//   sleep.add_loop(driver.loop_fd());
//   sleep.until(deadline);
class QueueSleep {
 public:
  void begin();

  // A queue from which something may come.  Its interrupts are enabled until
  // the sleep is over.  Valid so long.
  void add(QueueHandle& queue);
  // A loop; may be not valid.
  void add_loop(FdRef loop);

  // Sleeps, unless something came before.  May end early: look at the rings.
  void until(MonotonicTime when);

 private:
  bool quiet_ = true;
  std::vector<QueueHandle*> queues_;
  std::vector<pollfd> fds_;
};

}  // namespace vhost

#endif  // HW_DRIVER_QUEUE_SLEEP_H_
