// SPDX-License-Identifier: Apache-2.0
#ifndef HW_HOST_STATE_STREAM_H_
#define HW_HOST_STATE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// What reader and writer of QEMU's stream share: a non-blocking descriptor of
// somebody else, of which only the kind is known.  A file is always ready.
class StateStream {
 public:
  // Bytes of the length in front of each chunk.
  static constexpr size_t kLengthSize = 4;

  // Looks at what `fd` is.
  StateStream(EventLoop& loop, FdRef fd);

  FdRef fd() const { return fd_; }
  bool is_socket() const { return kind_ == Kind::kSocket; }
  bool is_pipe() const { return kind_ == Kind::kPipe; }

  // One call of `ready`, from the loop, when the descriptor is ready for
  // `wanted`.  Null: none any more.
  void when_ready(IoEvents wanted, absl::AnyInvocable<void()> ready);

  // As write() and read(), but never SIGPIPE from a socket.
  ssize_t write(std::span<const std::byte> bytes, bool more_follows) const;
  ssize_t read(std::span<std::byte> bytes) const;

 private:
  enum class Kind : uint8_t { kSocket, kPipe, kFile };

  void call();

  EventLoop& loop_;
  const FdRef fd_;
  const Kind kind_;
  absl::AnyInvocable<void()> ready_;
  std::unique_ptr<EventLoop::Watch> watch_;
  // Of what is posted; replaced, and it does nothing.
  std::shared_ptr<StateStream*> token_;
};

bool would_block(int error);
// Whether `fd` can be read, or written, now.
bool is_ready(FdRef fd, short poll_events);

}  // namespace vhost

#endif  // HW_HOST_STATE_STREAM_H_
