// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_MESSAGE_LOG_H_
#define BACKENDS_USER_MESSAGE_LOG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backends/user/message_table.h"

namespace vhost::user {

// The last messages of a connection, for the error that ends it.  Recording
// allocates nothing; words are made when asked for.
class MessageLog {
 public:
  struct Record {
    bool outgoing = false;
    bool need_reply = false;
    Request id{};
    uint32_t size = 0;  // Bytes of payload.
    uint32_t fds = 0;
    std::optional<uint32_t> queue;
    std::optional<uint64_t> value;  // Of an ack or another u64.
  };

  static constexpr size_t kKept = 32;

  void add(const Record& record) { ring_[count_++ % kKept] = record; }

  // Oldest first: "-> SET_VRING_NUM vq 3 (8 bytes, need_reply)".
  std::vector<std::string> lines() const;

 private:
  std::array<Record, kKept> ring_;
  uint64_t count_ = 0;
};

// "SET_VRING_NUM vq 3"
std::string describe(Request id, std::optional<uint32_t> queue);

}  // namespace vhost::user

#endif  // BACKENDS_USER_MESSAGE_LOG_H_
