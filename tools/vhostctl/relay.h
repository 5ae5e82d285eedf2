// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_RELAY_H_
#define TOOLS_VHOSTCTL_RELAY_H_

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "tools/vhostctl/recording.h"
#include "tools/vhostctl/recording_file.h"
#include "vhostdev/unique_fd.h"

namespace vhost::ctl {

// One direction of one channel: takes vhost-user messages off one socket,
// records each, and puts it on another as it came, its descriptors with its
// first byte.  Holds one message at a time: nothing is read before the one
// before it was sent, so that a receiver that is slow makes the sender wait.
// Never blocks.
class Relay {
 public:
  // `file` outlives it.
  Relay(RecordingFile* file, uint32_t connection, EventChannel channel,
        EventDirection direction);

  // May exchange the descriptors of a message that was recorded.
  using Exchange =
      absl::FunctionRef<void(const Event& message, std::vector<UniqueFd>& fds)>;

  // Moves what can be moved now, and not so much that others starve.  Once
  // over() there is nothing more to move.
  void move(FdRef from, FdRef to, Exchange exchange);

  // Why it ended; empty while it goes on.
  const std::string& over() const { return over_; }

  // What to wait for.
  bool sending() const { return sending_; }
  // Too many descriptors are in flight: nothing tells when they are not.
  bool must_retry() const { return retry_; }

 private:
  enum class Progress : uint8_t { kMore, kLater, kOver };

  Progress receive(FdRef from, Exchange exchange);
  Progress send(FdRef to);
  bool check_header();
  void garbage(absl::string_view why);
  void begin_message();

  RecordingFile* const file_;
  const uint32_t connection_;
  const EventChannel channel_;
  const EventDirection direction_;

  std::vector<std::byte> bytes_;     // Of the message, as far as it came.
  size_t due_ = kMessageHeaderSize;  // How long it is, as far as known.
  std::vector<UniqueFd> fds_;
  bool sending_ = false;
  size_t sent_ = 0;
  bool retry_ = false;
  std::string over_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_RELAY_H_
