// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_CHANNEL_IO_H_
#define MIGRATION_CHANNEL_IO_H_

#include <cstddef>
#include <span>

#include "absl/status/statusor.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// A descriptor of any kind as a stream of bytes, without waiting and without
// signals.
class ChannelIo {
 public:
  enum class Kind : uint8_t {
    kSocket,
    kPipe,  // Or a terminal: write() and poll.
    kFile,  // Cannot be polled: always ready.
  };

  // Makes it non-blocking.
  static absl::StatusOr<ChannelIo> open(UniqueFd fd);

  Kind kind() const { return kind_; }
  FdRef fd() const { return fd_; }

  // Bytes that went out; 0: not now.
  // Errors: kUnavailable  nobody reads it any more.
  absl::StatusOr<size_t> send(std::span<const std::byte> bytes);

  struct Received {
    size_t bytes = 0;  // 0 and not the end: nothing now.
    bool end = false;
  };
  absl::StatusOr<Received> receive(std::span<std::byte> bytes);

  // Nothing more will be sent.
  void end_sending();
  void close() { fd_.reset(); }

 private:
  ChannelIo(UniqueFd fd, Kind kind) : fd_(std::move(fd)), kind_(kind) {}

  UniqueFd fd_;
  Kind kind_;
};

}  // namespace vhost

#endif  // MIGRATION_CHANNEL_IO_H_
