// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_REPLAY_H_
#define TESTS_BENCH_REPLAY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backends/user/message_table.h"
#include "tests/bench/instant_backend.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

// How messages are sent again.
struct ReplayMode {
  size_t window = 128;    // Unanswered messages at most.
  bool with_acks = true;  // As traced; without: only what has its own reply.
  // Waits for all answers where the traced front-end must have waited: after a
  // run of requests that have a reply of their own.
  bool with_barriers = true;
  bool ack_everything = false;  // need_reply also where it was not traced.
};

// A message to be replayed, with a descriptor or without.
TracedMessage make_message(user::Request id, std::span<const std::byte> payload,
                           uint32_t fds = 0);

// The simplest front-end there can be: sends prepared messages in a plain loop,
// one system call each, and reads the answers without looking at them.
class Replay {
 public:
  // Connects; aborts the program if that does not work.  `fd` is sent wherever
  // a descriptor is due.
  Replay(const std::string& path, UniqueFd fd);

  // Sends `messages`; returns when the last answer is there, or for a list
  // without any when a final GET_FEATURES is answered.
  void run(std::span<const TracedMessage> messages, const ReplayMode& mode);

 private:
  void send(const TracedMessage& message, uint32_t flags);
  void read_answers(size_t until_left);

  UniqueFd socket_;
  UniqueFd fd_;
  size_t unanswered_ = 0;
  std::vector<std::byte> input_;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_REPLAY_H_
