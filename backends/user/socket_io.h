// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_SOCKET_IO_H_
#define BACKENDS_USER_SOCKET_IO_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

// The system calls on sockets, and nothing else.  Every socket is non-blocking
// and close-on-exec; nothing here raises SIGPIPE.
namespace vhost::user {

// What a send came to.
enum class SendOutcome : uint8_t {
  kSent,
  kFull,    // Later, when the socket is writable.
  kNoFds,   // Too many descriptors in flight: later, at no particular moment.
  kBroken,  // The other end is gone.
};

struct Sent {
  SendOutcome outcome = SendOutcome::kSent;
  size_t bytes = 0;
  int error = 0;  // errno, of kBroken.
};

// Sends some of `bytes`, with `fds` on the first of them.
Sent send_some(FdRef socket, std::span<const std::byte> bytes,
               std::span<const int> fds);

enum class ReceiveOutcome : uint8_t {
  kReceived,
  kEmpty,   // Nothing there now.
  kEnd,     // The other end closed.
  kBroken,  // Likewise, with an error; or more descriptors than a message has.
};

struct Received {
  ReceiveOutcome outcome = ReceiveOutcome::kEmpty;
  size_t bytes = 0;
  std::vector<UniqueFd> fds;
  // errno, of kBroken.  EMSGSIZE: more descriptors than a message may have;
  // EMFILE: this process can open no more.
  int error = 0;
};

// Receives up to `space`, which is not empty.  Descriptors are owned before
// anybody looks at them.
Received receive_some(FdRef socket, std::span<std::byte> space);

// Connects to the socket at `path`.  An empty optional: its backlog is full;
// try again soon.
// Errors: kUnavailable      nobody listens there (ENOENT, ECONNREFUSED).
//         kInvalidArgument  `path` is empty or longer than a socket path.
absl::StatusOr<std::optional<UniqueFd>> connect_to(const std::string& path);

// A connected pair.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> make_pair();

// Makes a socket that was handed in non-blocking and close-on-exec.
// Errors: kInvalidArgument  not a stream socket of the unix kind.
absl::Status adopt_socket(FdRef socket);

// A listening socket with a name.  The file goes with it.
class Listener {
 public:
  Listener() = default;
  Listener(Listener&& other) noexcept
      : socket_(std::move(other.socket_)),
        path_(std::exchange(other.path_, std::string())) {}
  Listener& operator=(Listener&& other) noexcept {
    std::swap(socket_, other.socket_);
    std::swap(path_, other.path_);
    return *this;
  }
  ~Listener();

  // Listens at `path`.  A file left there by a program that is gone is
  // replaced, but only if it is a socket and nobody listens on it.
  // Errors: kInvalidArgument     as connect_to.
  //         kFailedPrecondition  the path is in use.
  static absl::StatusOr<Listener> listen_on(const std::string& path);

  // The next connection; empty if there is none yet.
  absl::StatusOr<std::optional<UniqueFd>> accept();

  FdRef fd() const { return socket_; }
  bool valid() const { return socket_.valid(); }

 private:
  UniqueFd socket_;
  std::string path_;  // Empty: no file of ours.
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_SOCKET_IO_H_
