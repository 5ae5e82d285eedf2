// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_STATE_CHANNEL_H_
#define VHOSTDEV_STATE_CHANNEL_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// Both ends of a pipe of up to 1 MiB, close-on-exec.
struct StatePipe {
  UniqueFd read;
  UniqueFd write;
};

// 1 MiB is what an unprivileged process may have unless
// /proc/sys/fs/pipe-max-size says otherwise; the pipe is smaller where that is
// refused.
// Errors: kResourceExhausted  no descriptors left.
absl::StatusOr<StatePipe> make_state_pipe();

// Makes calls on `fd`, and on whatever shares its file description, fail
// with EAGAIN instead of waiting.
absl::Status set_nonblocking(FdRef fd);

// The front-end's end of the channel through which a back-end's state moves,
// for whoever drives VhostOps himself; VhostDev does it for the others.  It is
// a pipe of our own, or what the back-end gave instead; then there is a pipe of
// our own before it, because who has the other end of a descriptor can make it
// block at any time, and because who moves the state wants a pipe.
//
// Nothing here waits, and a write to a reader who is gone may raise SIGPIPE.
// Thread: one.
// Source: vhost-user.rst, VHOST_USER_SET_DEVICE_STATE_FD.
class StateChannel {
 public:
  StateChannel() = default;
  // `ours` is our end of the pipe whose other end the back-end has.
  explicit StateChannel(UniqueFd ours) : pipe_(std::move(ours)) {}
  // `theirs` came from the back-end.
  // Errors: kUnimplemented  neither a pipe nor a socket: it could block.
  static absl::StatusOr<StateChannel> relay(UniqueFd theirs);

  bool open() const { return pipe_.valid(); }
  // What to watch.
  FdRef fd() const { return relayed() ? theirs_ : pipe_; }

  // -- Saving ---------------------------------------------------------------

  // What can be read from pipe() now.
  struct Available {
    uint64_t bytes = 0;
    bool end = false;  // No byte will follow.
  };
  // Errors: of the descriptors.
  absl::StatusOr<Available> available();
  int pipe() const { return pipe_.get(); }

  // -- Loading --------------------------------------------------------------

  // Where bytes go: pipe() too, or the pipe before the relay.
  int entry() const { return relayed() ? entry_.get() : pipe_.get(); }
  // Hands on what waits before the relay; false: some of it still waits, for
  // fd() to become writable.
  // Errors: kUnavailable  who reads is gone.
  absl::StatusOr<bool> flush();
  // Whether the back-end has closed its end.
  bool reader_gone() const;

 private:
  bool relayed() const { return theirs_.valid(); }
  absl::StatusOr<uint64_t> refill();
  ssize_t send_on();

  UniqueFd pipe_;   // Ours; of a relay: the end that is read.
  UniqueFd entry_;  // Of a relay: the end that is written.
  UniqueFd theirs_;
  bool theirs_is_socket_ = false;
  bool theirs_ended_ = false;
  std::vector<std::byte> unsent_;  // Left the pipe, on its way to a socket.
};

}  // namespace vhost

#endif  // VHOSTDEV_STATE_CHANNEL_H_
