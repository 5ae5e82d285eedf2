// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_CHANNEL_H_
#define TOOLS_MINIVM_CHANNEL_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// Where a migration connects to.
struct ChannelAddress {
  std::string path;  // Of a unix socket; empty: TCP.
  std::string host;  // Name or number; without brackets.
  uint16_t port = 0;

  friend bool operator==(const ChannelAddress&,
                         const ChannelAddress&) = default;
};

// "tcp:HOST:PORT" (an IPv6 address in brackets), "unix:PATH", and back.
// Errors: kInvalidArgument.
absl::StatusOr<ChannelAddress> parse_channel(absl::string_view text);
std::string to_string(const ChannelAddress& address);

// The same with the number of a host in place of its name: whoever has a loop
// to turn does not wait for a name server.  Waits for one.
// Errors: kUnavailable  there is no such host.
absl::StatusOr<ChannelAddress> resolve(const ChannelAddress& address);

// Takes connections.  Loop thread.
class ChannelListener {
 public:
  // `accepted` gets each connection, non-blocking.  `address` has a number for
  // a host; port 0 is any.  A socket file is removed with the listener.
  // Errors: of the system call that failed, with the address;
  //         kAlreadyExists  there is a file of that name.
  static absl::StatusOr<std::unique_ptr<ChannelListener>> listen(
      EventLoop& loop, const ChannelAddress& address,
      absl::AnyInvocable<void(UniqueFd)> accepted);
  ~ChannelListener();
  ChannelListener(const ChannelListener&) = delete;
  ChannelListener& operator=(const ChannelListener&) = delete;

  // With the port it has.
  const ChannelAddress& address() const { return address_; }

 private:
  ChannelListener(EventLoop& loop, ChannelAddress address, UniqueFd socket,
                  absl::AnyInvocable<void(UniqueFd)> accepted);
  void watch();
  void accept();

  EventLoop& loop_;
  const ChannelAddress address_;
  ino_t inode_ = 0;  // Of the socket file.
  const UniqueFd socket_;
  absl::AnyInvocable<void(UniqueFd)> accepted_;
  std::unique_ptr<EventLoop::Watch> watch_;
  std::unique_ptr<EventLoop::Timer> retry_;
};

// Makes a connection without waiting for it.  Loop thread.
class ChannelConnector {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<UniqueFd>)>;

  // `done` is called once, on the loop and not before this returned, unless
  // the connector goes first.  `address` has a number for a host.
  // Errors: kUnavailable       nobody listens there.
  //         kDeadlineExceeded  no answer for `timeout`.
  //         kInvalidArgument   a host that is no number.
  ChannelConnector(EventLoop& loop, const ChannelAddress& address,
                   Duration timeout, Done done);

 private:
  absl::Status begin();
  void connected();
  void finish(absl::StatusOr<UniqueFd> result);

  EventLoop& loop_;
  const ChannelAddress address_;
  Done done_;
  UniqueFd socket_;
  std::unique_ptr<EventLoop::Watch> watch_;
  std::unique_ptr<EventLoop::Timer> limit_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_CHANNEL_H_
