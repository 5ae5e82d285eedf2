// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_MESSAGE_LOG_H_
#define BACKENDS_USER_MESSAGE_LOG_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/user/message_table.h"
#include "vhostdev/request_log.h"

namespace vhost::user {

// The last messages of a connection, on both channels, for the error that ends
// it.  Recording allocates nothing; words are made when asked for.
class MessageLog {
 public:
  struct Record {
    bool outgoing = false;
    bool need_reply = false;
    bool on_backend_channel = false;
    uint32_t id = 0;
    uint32_t size = 0;  // Bytes of payload.
    uint32_t fds = 0;
    std::optional<uint32_t> queue = {};
    std::optional<uint64_t> value = {};  // Of an ack or another u64.
    // Of a reply: since its request was sent, or received.
    std::optional<Duration> took = {};
  };

  static constexpr size_t kMostKept = 4096;

  // Keeps the last `kept`, at most kMostKept.
  explicit MessageLog(size_t kept);

  // A connection begins: forgets the one before.
  void begin(MonotonicTime now);
  void add(const Record& record, MonotonicTime now);

  // Oldest first; times are since the connection began:
  // "+0.125 ms -> SET_VRING_NUM vq 3 (8 bytes, need_reply)",
  // "+0.193 ms <- SET_VRING_NUM vq 3 (8 bytes, 0x0) after 68 us".
  std::vector<std::string> lines() const;

 private:
  struct Kept {
    Record record;
    Duration at{};
  };

  std::vector<Kept> ring_;
  uint64_t count_ = 0;
  MonotonicTime begun_{};
};

// What the engines of a connection tell: its last messages, and counts over all
// connections.
struct MessageRecorder {
  explicit MessageRecorder(size_t kept) : log(kept) {}

  MessageLog log;
  RequestCounts counts{frontend_messages().size() + 1};
};

// "SET_VRING_NUM vq 3"
std::string describe(Request id, std::optional<uint32_t> queue);

}  // namespace vhost::user

#endif  // BACKENDS_USER_MESSAGE_LOG_H_
