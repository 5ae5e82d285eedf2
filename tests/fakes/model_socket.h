// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_SOCKET_H_
#define TESTS_FAKES_MODEL_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/wire.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A message as it came, whole; nothing but its size and the number of its
// descriptors was looked at.
struct ModelFrame {
  user::wire::Header header = {};
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;
};

// One end of a vhost-user connection, or of its back-end channel.  Never
// blocks.
class ModelSocket {
 public:
  // Larger payloads are not read.
  static constexpr uint32_t kMaxPayload = 4096;

  explicit ModelSocket(UniqueFd socket) : socket_(std::move(socket)) {}
  FdRef fd() const { return socket_; }

  // The next message, once all of it has come.
  // Errors: kUnavailable  the other side is gone.
  //         kDataLoss     what came is no message.
  absl::StatusOr<std::optional<ModelFrame>> receive();

  // Sends a message, or keeps what the socket does not take for flush().
  // With `fd`, if there is one: then all before was taken by the socket.
  absl::Status send(uint32_t request, uint32_t flags,
                    std::span<const std::byte> payload, UniqueFd fd = {});
  absl::Status flush();
  bool flushed() const { return out_.empty(); }

 private:
  absl::StatusOr<bool> receive_header();
  absl::StatusOr<bool> receive_payload();

  UniqueFd socket_;
  ModelFrame frame_;
  size_t have_ = 0;  // Bytes of frame_, header included.
  std::vector<std::byte> out_;
  UniqueFd out_fd_;  // Goes with the first byte of out_.
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_SOCKET_H_
