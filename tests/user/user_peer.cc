// SPDX-License-Identifier: Apache-2.0
#include "tests/user/user_peer.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "backends/user/codec.h"
#include "backends/user/socket_io.h"

namespace vhost::user {
namespace {

void append(ByteVector& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

ByteVector to_vector(std::span<const std::byte> bytes) {
  return ByteVector(bytes.begin(), bytes.end());
}

}  // namespace

ByteVector message(uint32_t id, uint32_t flags,
                   std::span<const std::byte> payload) {
  const wire::Header header = {.request = id,
                               .flags = flags,
                               .size = static_cast<uint32_t>(payload.size())};
  ByteVector out;
  append(out, wire::bytes_of(header));
  append(out, payload);
  return out;
}

ByteVector u64_message(uint32_t id, uint32_t flags, uint64_t value) {
  return message(id, flags, wire::bytes_of(value));
}

UserPeer::UserPeer() {
  auto pair = make_pair();
  if (!pair.ok()) {
    ADD_FAILURE() << pair.status();
    return;
  }
  front_ = std::move(pair->first);
  socket_ = std::move(pair->second);
}

VhostUserAddress UserPeer::address() {
  return UseSocket{std::make_shared<UniqueFd>(take_socket())};
}

// Header and payload are read apart, as real back-ends do: descriptors may only
// come with the header.
bool UserPeer::read_message() {
  wire::Header header = {};
  Received head =
      receive_some(socket_, std::as_writable_bytes(std::span(&header, 1)));
  if (head.outcome == ReceiveOutcome::kEnd ||
      head.outcome == ReceiveOutcome::kBroken) {
    socket_.reset();
  }
  if (head.outcome != ReceiveOutcome::kReceived) return false;
  EXPECT_EQ(head.bytes, sizeof(header));
  Message in;
  in.id = Request{header.request};
  in.flags = header.flags;
  in.fds = std::move(head.fds);
  in.payload.resize(header.size);
  if (header.size != 0) {
    const Received body = receive_some(socket_, in.payload);
    EXPECT_EQ(body.bytes, header.size);
    EXPECT_TRUE(body.fds.empty()) << "descriptors behind the first byte";
  }
  seen.push_back(std::move(in));
  return true;
}

void UserPeer::serve() {
  while (socket_.valid() && read_message()) {
    if (hang_up_before && seen.size() > *hang_up_before) return close();
    reply_to(seen.size() - 1);
    if (hang_up_after && seen.size() > *hang_up_after) return close();
  }
}

void UserPeer::reply_to(size_t number) {
  const auto at = [&](Moment moment) {
    if (meanwhile) meanwhile(seen[number], moment);
  };
  at(Moment::kRead);
  ByteVector reply;
  if (instead) reply = instead(seen[number]);
  if (reply.empty()) reply = answer(seen[number]);
  if (reply.empty()) return;
  const UniqueFd given = std::move(reply_fd_);
  const int fd = given.get();
  const auto fds = given.valid() ? std::span(&fd, 1) : std::span<const int>();
  if (!meanwhile) return send(reply, fds);
  const auto cut = static_cast<std::ptrdiff_t>(sizeof(wire::Header));
  send(ByteVector(reply.begin(), reply.begin() + cut), fds);
  at(Moment::kHalfway);
  reply.erase(reply.begin(), reply.begin() + cut);
  if (!reply.empty()) send(reply);
  at(Moment::kAnswered);
}

ByteVector UserPeer::answer(const Message& in) {
  remember(in);
  const bool log_shmfd = (protocol_features & bit_mask(kProtocolLogShmfd)) != 0;
  const auto shape = reply_shape(in.id, in.need_reply(), log_shmfd);
  if (!shape) return {};
  const auto refusal = acks.find(to_int(in.id));
  if (refusal != acks.end()) {
    return u64_message(to_int(in.id), kReplyFlags, refusal->second);
  }
  return message(to_int(in.id), kReplyFlags, body(in));
}

void UserPeer::remember(const Message& in) {
  if (in.id == Request::kSetStatus) {
    status_ = static_cast<uint8_t>(
        wire::read_prefix<uint64_t>(in.payload).value_or(0) & status_mask);
  }
  if (in.id == Request::kSetBackendReqFd && in.fds.size() == 1) {
    channel_ = std::move(const_cast<Message&>(in).fds.front());
  }
}

ByteVector UserPeer::body(const Message& in) {
  const auto u64 = [](uint64_t value) {
    return to_vector(wire::bytes_of(value));
  };
  switch (in.id) {
    case Request::kGetFeatures:
      return u64(features);
    case Request::kGetProtocolFeatures:
      return u64(protocol_features);
    case Request::kGetQueueNum:
      return u64(queue_num);
    case Request::kGetMaxMemSlots:
      return u64(memory_slots);
    case Request::kGetStatus:
      return u64(status_);
    case Request::kSetDeviceStateFd:
      if (state_reply == 0) reply_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
      return u64(state_reply);
    case Request::kGetVringBase: {
      auto state = *wire::read_prefix<wire::VringState>(in.payload);
      state.num = bases[state.index];
      return to_vector(wire::bytes_of(state));
    }
    case Request::kGetConfig: {
      ByteVector out = in.payload;
      const auto head = *wire::read_prefix<wire::ConfigHead>(in.payload);
      std::memcpy(out.data() + sizeof(head), config.data() + head.offset,
                  head.size);
      return out;
    }
    case Request::kGetInflightFd: {
      auto area = *wire::read_prefix<wire::Inflight>(in.payload);
      area.mmap_size = inflight_size;
      if (inflight_size != 0) reply_fd_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
      return to_vector(wire::bytes_of(area).first(inflight_bytes));
    }
    default:
      return u64(0);
  }
}

void UserPeer::send(const ByteVector& bytes, std::span<const int> fds) {
  const Sent sent = send_some(socket_, bytes, fds);
  if (sent.outcome != SendOutcome::kSent) return;  // The front-end is gone.
  EXPECT_EQ(sent.bytes, bytes.size());
}

std::vector<std::string> UserPeer::names() const {
  std::vector<std::string> out;
  for (const Message& in : seen) {
    out.push_back(frontend_message_name(to_int(in.id)));
  }
  return out;
}

size_t UserPeer::count(Request id) const {
  size_t out = 0;
  for (const Message& in : seen) out += in.id == id ? 1 : 0;
  return out;
}

std::optional<BatchResult> drive(VhostOps& ops, UserPeer& peer, Verb verb) {
  const MonotonicTime now = std::chrono::steady_clock::now();
  std::optional<BatchResult> out;
  const Pending pending =
      ops.submit(std::move(verb), now + std::chrono::seconds(10),
                 [&out](BatchResult result) { out = std::move(result); });
  // Each turn moves at least one message, or nothing will ever move.
  for (int turn = 0; turn < 10'000 && !out.has_value(); ++turn) {
    peer.serve();
    ops.pump(now);
  }
  return out;
}

}  // namespace vhost::user
