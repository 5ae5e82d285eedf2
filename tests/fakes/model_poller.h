// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_POLLER_H_
#define TESTS_FAKES_MODEL_POLLER_H_

#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// What a watched descriptor is.
enum class ModelWatch : uint32_t {
  kWake,
  kListener,
  kSocket,
  kChannel,
  kKick,
  kState,
};

struct ModelEvent {
  ModelWatch watch;
  uint32_t index;  // Of the ring, for kKick.
  bool hung_up;
};

// An epoll descriptor.
class ModelPoller {
 public:
  absl::Status open();
  FdRef fd() const { return epoll_; }

  absl::Status add(FdRef fd, ModelWatch watch, uint32_t index = 0);
  void change(FdRef fd, ModelWatch watch, bool readable, bool writable);
  void remove(FdRef fd);

  // What is ready now.
  std::vector<ModelEvent> ready() const;

 private:
  UniqueFd epoll_;
};

// Waits until `a` or `b` (which may be invalid) is readable, `timeout` is over
// (negative: never) or a signal comes.
void wait_readable(FdRef a, FdRef b, std::chrono::nanoseconds timeout);
bool is_readable(FdRef fd);

// Makes the other side of a notifier see a signal.  Never blocks, whatever kind
// of descriptor it is, and raises no SIGPIPE.
void signal_notifier(FdRef fd);
// Unsets a notifier and says what it was: set, unset, or of no more use.
enum class NotifierRead : uint8_t { kSet, kUnset, kDead };
NotifierRead read_notifier(FdRef fd);
void make_nonblocking(FdRef fd);

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_POLLER_H_
