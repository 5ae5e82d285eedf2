// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/connection_scenario.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "backends/user/connection.h"

namespace vhost::user {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

class Scenario {
 public:
  Scenario(const uint8_t* data, size_t size)
      : input_(data, data + size),
        null_(::open("/dev/null", O_RDWR | O_CLOEXEC)),
        connection_({.max_outstanding = 4, .max_outstanding_fds = 2},
                    &recorder_) {}

  ConnectionScenario run() {
    while (!input_.empty()) {
      act(next());
      drain();
    }
    out_.all_answered = out_.replies != 0 && !connection_.waiting();
    static_cast<void>(recorder_.log.lines());
    return out_;
  }

 private:
  uint8_t next() {
    if (input_.empty()) return 0;
    const uint8_t out = input_.front();
    input_.pop_front();
    return out;
  }

  void act(uint8_t action) {
    switch (action % 8) {
      case 0:
        return enqueue();
      case 1:
        return send(next());
      case 2:
        return reply(next(), 0, 0);
      case 3: {
        const uint8_t at = next();
        return reply(0, at, next());
      }
      case 4:
        return raw(next());
      case 5:
        now_ += std::chrono::milliseconds(100) * next();
        if (!connection_.check_deadline(now_).ok()) note_end();
        return;
      case 6:
        fds_ = next() % 4;
        return;
      case 7:
        log_shmfd_ = true;
        connection_.set_log_shmfd(true);
        return;
    }
  }

  void enqueue() {
    const auto messages = frontend_messages();
    const MessageSpec& spec = messages[next() % messages.size()];
    const uint8_t flags = next();
    const Request id{spec.id};
    const std::vector<std::byte> payload(
        std::min<size_t>(spec.request.min, 64));
    const FdRef fd = null_;
    const bool with_fd = (flags & 2) != 0 && spec.request_fds.max != 0;
    const bool need_reply = (flags & 1) != 0;
    connection_.enqueue({.id = id,
                         .payload = payload,
                         .fds = std::span(&fd, with_fd ? 1 : 0),
                         .need_reply = need_reply},
                        now_);
    const auto shape = reply_shape(id, need_reply, log_shmfd_);
    if (shape) due_.push_back({id, *shape});
    ++out_.requests;
  }

  void send(size_t n) {
    const Connection::Segment segment = connection_.next_segment();
    check(segment.fds.size() <= wire::kMaxFds);
    check(segment.fds.empty() || !segment.bytes.empty());
    connection_.sent(std::min(n, segment.bytes.size()), now_);
  }

  // A reply of the smallest size that the oldest request may be answered with.
  void reply(size_t cut, size_t at, uint8_t bits) {
    if (due_.empty()) return;
    const auto [id, shape] = due_.front();
    std::vector<std::byte> bytes(sizeof(wire::Header) + shape.size.min);
    const wire::Header header = {
        .request = to_int(id), .flags = kReplyFlags, .size = shape.size.min};
    std::memcpy(bytes.data(), &header, sizeof(header));
    bytes[at % bytes.size()] ^= std::byte{bits};
    const std::span<const std::byte> all = bytes;
    cut = std::min(cut, all.size());
    feed(all.first(cut));
    drain();
    feed(all.subspan(cut));
  }

  void raw(size_t n) {
    std::vector<std::byte> bytes;
    for (size_t i = 0; i < n; ++i) bytes.push_back(std::byte{next()});
    feed(bytes);
  }

  void feed(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    const std::span<std::byte> space = connection_.input_space();
    check(space.empty() == !connection_.status().ok());
    const size_t n = std::min(bytes.size(), space.size());
    if (n == 0) return;
    std::memcpy(space.data(), bytes.data(), n);
    std::vector<UniqueFd> fds;
    for (; fds_ > 0; --fds_) fds.emplace_back(::dup(null_.get()));
    connection_.received(n, std::move(fds));
  }

  void drain() {
    for (;;) {
      const auto reply = connection_.next_reply(now_);
      if (!reply.ok()) return note_end();
      if (!reply->has_value()) return;
      check(!due_.empty() && due_.front().first == (*reply)->id);
      check(due_.front().second.fds.has((*reply)->fds.size()));
      due_.pop_front();
      ++out_.replies;
      out_.refusals += (*reply)->refused ? 1 : 0;
      out_.descriptors += (*reply)->fds.size();
    }
  }

  void note_end() {
    const absl::Status& status = connection_.status();
    check(!status.ok());
    check(connection_.next_segment().bytes.empty());
    check(connection_.input_space().empty());
    out_.overdue = absl::IsDeadlineExceeded(status);
    out_.malformed = absl::IsDataLoss(status);
  }

  std::deque<uint8_t> input_;
  const UniqueFd null_;
  MessageRecorder recorder_{4};
  Connection connection_;
  MonotonicTime now_{std::chrono::hours(1)};
  std::deque<std::pair<Request, ReplyShape>> due_;
  bool log_shmfd_ = false;
  size_t fds_ = 0;
  ConnectionScenario out_;
};

}  // namespace

ConnectionScenario run_connection_scenario(const uint8_t* data, size_t size) {
  return Scenario(data, size).run();
}

}  // namespace vhost::user
