// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_USER_USER_PEER_H_
#define TESTS_USER_USER_PEER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {

using ByteVector = std::vector<std::byte>;

// A whole message as bytes.
ByteVector message(uint32_t id, uint32_t flags,
                   std::span<const std::byte> payload = {});
ByteVector u64_message(uint32_t id, uint32_t flags, uint64_t value);

// The other end of a socket pair: a back-end that answers by the rules, keeps
// what it was told and can be told to be difficult.  Works only inside serve(),
// on the caller's thread.
class UserPeer {
 public:
  struct Message {
    Request id{};
    uint32_t flags = 0;
    ByteVector payload;
    std::vector<UniqueFd> fds;

    bool need_reply() const { return (flags & wire::kNeedReplyFlag) != 0; }
  };

  UserPeer();
  // Over a socket that a front-end is connected to.
  explicit UserPeer(UniqueFd socket) : socket_(std::move(socket)) {}

  // -- What it says of itself.
  uint64_t features = 0x1'7000'0000;  // VERSION_1, 28, 29, PROTOCOL_FEATURES
  uint64_t protocol_features = 0;
  uint64_t queue_num = 8;
  uint64_t memory_slots = 32;
  ByteVector config = ByteVector(64, std::byte{7});
  uint64_t inflight_size = 4096;
  size_t inflight_bytes = 24;
  uint64_t state_reply = wire::kStateNoFdFlag;
  std::map<uint32_t, uint32_t> bases;  // By queue.
  uint8_t status_mask = 0xff;          // Status bits that stick.

  // -- How it misbehaves.
  std::map<uint32_t, uint64_t> acks;  // By request id; else 0.
  // Closes when this many messages were read, before answering the last...
  std::optional<size_t> hang_up_before;
  // ... or having answered it.
  std::optional<size_t> hang_up_after;
  // Answers instead, with raw bytes; empty: by the rules.
  std::function<ByteVector(const Message&)> instead;

  // The front-end's end; once.
  UniqueFd take_socket() { return std::move(front_); }
  VhostUserAddress address();

  // Reads and answers all there is.
  void serve();
  // Raw bytes, with descriptors on the first.
  void send(const ByteVector& bytes, std::span<const int> fds = {});
  void close() { socket_.reset(); }
  bool closed() const { return !socket_.valid(); }

  // Where it is with a message when `meanwhile` is called, if there is one.
  enum class Moment : uint8_t {
    kRead,      // Read it; nothing was answered.
    kHalfway,   // Sent the header of its reply.
    kAnswered,  // Sent all of it.
  };
  std::function<void(const Message&, Moment)> meanwhile;

  // What came, oldest first.
  std::vector<Message> seen;
  std::vector<std::string> names() const;
  size_t count(Request id) const;
  // Its end of the back-end channel, if it was given one.
  FdRef channel() const { return channel_; }

 private:
  bool read_message();
  ByteVector answer(const Message& in);
  void reply_to(size_t number);
  ByteVector body(const Message& in);
  void remember(const Message& in);

  UniqueFd front_;
  UniqueFd socket_;
  UniqueFd channel_;
  uint8_t status_ = 0;
  UniqueFd reply_fd_;
};

// Does one verb against `peer`, in turns with it; empty if it never completed.
std::optional<BatchResult> drive(VhostOps& ops, UserPeer& peer, Verb verb);

}  // namespace vhost::user

#endif  // TESTS_USER_USER_PEER_H_
