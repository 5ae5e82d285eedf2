// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/scripted_peer.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/peer_socket.h"

namespace vhost::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kHeaderSize = 12;
constexpr size_t kSizeOffset = 8;
constexpr uint32_t kMaxPayload = 64 * 1024;  // More is a problem, not a read.

uint32_t u32_at(const Bytes& bytes, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

std::string shown(const Bytes& bytes) {
  const absl::string_view text(reinterpret_cast<const char*>(bytes.data()),
                               bytes.size());
  return absl::BytesToHexString(text);
}

}  // namespace

ScriptedPeer::ScriptedPeer(std::chrono::milliseconds patience)
    : patience_(patience),
      resumes_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) {
  std::array<int, 2> ends = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    fail("no socket pair");
    return;
  }
  socket_ = UniqueFd(ends[0]);
  other_ = UniqueFd(ends[1]);
}

UniqueFd ScriptedPeer::take_socket() { return std::move(other_); }

// ---------------------------------------------------------------------------
// The script
// ---------------------------------------------------------------------------

ScriptedPeer& ScriptedPeer::add(std::string name, WaitsFor waits_for,
                                Try attempt) {
  script_.push_back({std::move(name), waits_for, std::move(attempt)});
  return *this;
}

ScriptedPeer& ScriptedPeer::expect(uint32_t request, Want want) {
  return add(absl::StrCat("expect request ", request), WaitsFor::kInput,
             [this, request, want = std::move(want)] {
               const Outcome outcome = receive_message();
               return outcome == Outcome::kDone ? check(request, want)
                                                : outcome;
             });
}

ScriptedPeer& ScriptedPeer::expect_bytes(Bytes bytes, size_t fds) {
  std::string name = absl::StrCat("expect ", bytes.size(), " bytes");
  return add(
      std::move(name), WaitsFor::kInput, [this, bytes = std::move(bytes), fds] {
        if (const Outcome outcome = receive(bytes.size());
            outcome != Outcome::kDone) {
          return outcome;
        }
        const Bytes got = std::exchange(in_, {});
        const size_t got_fds = std::exchange(in_fds_, 0);
        if (got != bytes) {
          return fail(
              absl::StrCat("got ", shown(got), " instead of ", shown(bytes)));
        }
        if (got_fds != fds) {
          return fail(
              absl::StrCat("got ", got_fds, " descriptors instead of ", fds));
        }
        return Outcome::kDone;
      });
}

ScriptedPeer& ScriptedPeer::skip_to(uint32_t request) {
  return add(absl::StrCat("skip to request ", request), WaitsFor::kInput,
             [this, request] { return skip_some(request); });
}

ScriptedPeer& ScriptedPeer::expect_close() {
  return add("expect close", WaitsFor::kInput,
             [this] { return receive_close(); });
}

ScriptedPeer& ScriptedPeer::serve(
    absl::AnyInvocable<Bytes(const Message&)> handler) {
  return add("serve", WaitsFor::kInput,
             [this, handler = std::move(handler)]() mutable {
               return serve_some(handler);
             });
}

// A step that sends: `prepare` fills out_ once and says whether to go on.
ScriptedPeer& ScriptedPeer::add_send(std::string name,
                                     absl::AnyInvocable<bool()> prepare,
                                     bool must_arrive) {
  return add(std::move(name), WaitsFor::kOutput,
             [this, prepare = std::move(prepare), must_arrive]() mutable {
               if (prepare) {
                 absl::AnyInvocable<bool()> once =
                     std::exchange(prepare, nullptr);
                 if (!once()) return Outcome::kFailed;
               }
               return flush(must_arrive);
             });
}

ScriptedPeer& ScriptedPeer::reply(Bytes payload, size_t fds) {
  auto prepare = [this, payload = std::move(payload), fds] {
    const uint32_t flags = kVersionFlag | kReplyFlag;
    out_.push_back({user_message(last_.request, flags, payload), fds});
    return true;
  };
  return add_send("reply", std::move(prepare), /*must_arrive=*/true);
}

ScriptedPeer& ScriptedPeer::ack(uint64_t value) {
  auto prepare = [this, value] {
    if ((last_.flags & kNeedReplyFlag) == 0) {
      fail(absl::StrCat("request ", last_.request, " asks for no reply"));
      return false;
    }
    const uint32_t flags = kVersionFlag | kReplyFlag;
    out_.push_back({user_message(last_.request, flags, u64s({value})), 0});
    return true;
  };
  return add_send("ack", std::move(prepare), /*must_arrive=*/true);
}

ScriptedPeer& ScriptedPeer::send(Bytes bytes, size_t fds, size_t chunk) {
  auto prepare = [this, bytes = std::move(bytes), fds, chunk] {
    const size_t step = chunk == 0 ? std::max<size_t>(bytes.size(), 1) : chunk;
    for (size_t at = 0; at < bytes.size(); at += step) {
      const size_t size = std::min(step, bytes.size() - at);
      const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
      out_.push_back({Bytes(begin, begin + static_cast<std::ptrdiff_t>(size)),
                      at == 0 ? fds : 0});
    }
    return true;
  };
  return add_send("send", std::move(prepare), /*must_arrive=*/false);
}

ScriptedPeer& ScriptedPeer::stall() {
  return add("stall", WaitsFor::kResume, [this] {
    uint64_t count = 0;
    const bool resumed =
        ::read(resumes_.get(), &count, sizeof(count)) == sizeof(count);
    return resumed ? Outcome::kDone : Outcome::kBlocked;
  });
}

ScriptedPeer& ScriptedPeer::close() {
  return add("close", WaitsFor::kOutput, [this] {
    socket_.reset();
    return Outcome::kDone;
  });
}

ScriptedPeer& ScriptedPeer::call(absl::AnyInvocable<void()> action) {
  return add("call", WaitsFor::kOutput, [action = std::move(action)]() mutable {
    action();
    return Outcome::kDone;
  });
}

// ---------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------

ScriptedPeer::Outcome ScriptedPeer::fail(absl::string_view problem) {
  const std::string where =
      script_.empty() ? "" : absl::StrCat(script_.front().name, ": ");
  const absl::MutexLock lock(&mutex_);
  problems_.push_back(absl::StrCat(where, problem));
  return Outcome::kFailed;
}

// Until in_ has `wanted` bytes.  Never reads further, so that descriptors
// belong to the message they came with.
ScriptedPeer::Outcome ScriptedPeer::receive(size_t wanted) {
  while (in_.size() < wanted) {
    if (!socket_.valid()) return fail("this end is closed");
    const size_t fds_before = fds_.size();
    const ssize_t got =
        receive_some(socket_.get(), wanted - in_.size(), in_, fds_);
    in_fds_ += fds_.size() - fds_before;
    if (got > 0) continue;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return Outcome::kBlocked;
    end_of_file_ = true;
    return fail(absl::StrCat("the other end closed after ", in_.size(), " of ",
                             wanted, " bytes"));
  }
  return Outcome::kDone;
}

ScriptedPeer::Outcome ScriptedPeer::receive_message() {
  if (const Outcome outcome = receive(kHeaderSize); outcome != Outcome::kDone) {
    return outcome;
  }
  const uint32_t size = u32_at(in_, kSizeOffset);
  if (size > kMaxPayload) return fail(absl::StrCat("payload of ", size));
  if (const Outcome outcome = receive(kHeaderSize + size);
      outcome != Outcome::kDone) {
    return outcome;
  }
  last_.request = u32_at(in_, 0);
  last_.flags = u32_at(in_, 4);
  last_.payload.assign(in_.begin() + kHeaderSize, in_.end());
  last_.fds = std::exchange(in_fds_, 0);
  in_.clear();
  return Outcome::kDone;
}

ScriptedPeer::Outcome ScriptedPeer::check(uint32_t request, const Want& want) {
  if (last_.request != request) {
    return fail(absl::StrCat("got request ", last_.request, " (flags ",
                             last_.flags, ", ", last_.payload.size(),
                             " bytes)"));
  }
  if (want.flags.has_value() && last_.flags != *want.flags) {
    return fail(
        absl::StrCat("flags ", last_.flags, " instead of ", *want.flags));
  }
  if (want.payload.has_value() && last_.payload != *want.payload) {
    return fail(absl::StrCat("payload ", shown(last_.payload), " instead of ",
                             shown(*want.payload)));
  }
  if (want.fds.has_value() && last_.fds != *want.fds) {
    return fail(absl::StrCat(last_.fds, " descriptors instead of ", *want.fds));
  }
  return Outcome::kDone;
}

ScriptedPeer::Outcome ScriptedPeer::skip_some(uint32_t request) {
  for (;;) {
    if (const Outcome outcome = flush(/*must_arrive=*/true);
        outcome != Outcome::kDone) {
      return outcome;
    }
    if (const Outcome outcome = receive_message(); outcome != Outcome::kDone) {
      return outcome;
    }
    if (last_.request == request) return Outcome::kDone;
    if ((last_.flags & kNeedReplyFlag) == 0) continue;
    const uint32_t flags = kVersionFlag | kReplyFlag;
    out_.push_back({user_message(last_.request, flags, u64s({0})), 0});
  }
}

// Whether the other end closed: looks ahead without taking anything.
ScriptedPeer::Outcome ScriptedPeer::receive_close() {
  if (end_of_file_) return Outcome::kDone;
  if (!socket_.valid()) return fail("this end is closed");
  std::byte next{};
  const ssize_t got = ::recv(socket_.get(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return Outcome::kBlocked;
  if (got > 0) return fail("got bytes instead");
  end_of_file_ = true;
  return Outcome::kDone;
}

ScriptedPeer::Outcome ScriptedPeer::serve_some(
    absl::AnyInvocable<Bytes(const Message&)>& handler) {
  for (;;) {
    if (const Outcome outcome = flush(/*must_arrive=*/false);
        outcome != Outcome::kDone) {
      return outcome;
    }
    if (in_.empty() && socket_.valid()) {
      std::byte next{};
      const ssize_t got =
          ::recv(socket_.get(), &next, 1, MSG_PEEK | MSG_DONTWAIT);
      const bool closed = got == 0 || (got < 0 && errno == ECONNRESET);
      if (closed) return Outcome::kDone;
      // It may be closed by the next look.
      if (got < 0 && errno == EAGAIN) return Outcome::kBlocked;
    }
    if (const Outcome outcome = receive_message(); outcome != Outcome::kDone) {
      return outcome;
    }
    Bytes answer = handler(last_);
    if (!answer.empty()) out_.push_back({std::move(answer), 0});
  }
}

ScriptedPeer::Outcome ScriptedPeer::flush(bool must_arrive) {
  while (!out_.empty()) {
    if (!socket_.valid()) return fail("this end is closed");
    Piece& piece = out_.front();
    const ssize_t sent = send_piece(socket_.get(), piece.bytes, piece.fds);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return Outcome::kBlocked;
    if (sent < 0) {
      // Somebody who is sent nonsense may hang up in the middle of it.
      out_.clear();
      return must_arrive ? fail("the other end closed") : Outcome::kDone;
    }
    piece.fds = 0;
    piece.bytes.erase(piece.bytes.begin(), piece.bytes.begin() + sent);
    if (piece.bytes.empty()) out_.pop_front();
  }
  return Outcome::kDone;
}

// ---------------------------------------------------------------------------
// Running
// ---------------------------------------------------------------------------

bool ScriptedPeer::run_one(Outcome& outcome) {
  if (script_.empty()) return false;
  outcome = script_.front().attempt();
  if (outcome == Outcome::kBlocked) return false;
  if (outcome == Outcome::kFailed) {
    // The code under test must not wait for an answer that will not come.
    script_.clear();
    socket_.reset();
    return false;
  }
  script_.pop_front();
  return true;
}

bool ScriptedPeer::run_ready() {
  Outcome outcome = Outcome::kDone;
  while (run_one(outcome)) {
  }
  return script_.empty();
}

void ScriptedPeer::start() {
  thread_ = std::thread([this] { run_thread(); });
}

void ScriptedPeer::run_thread() {
  while (!script_.empty()) {
    const Clock::time_point deadline = Clock::now() + patience_;
    Outcome outcome = Outcome::kDone;
    while (!run_one(outcome) && outcome == Outcome::kBlocked) {
      if (wait_for(script_.front().waits_for, deadline)) continue;
      fail(absl::StrCat("nothing for ", patience_.count(), " ms"));
      script_.clear();
      socket_.reset();
      return;
    }
  }
}

bool ScriptedPeer::wait_for(WaitsFor what, Clock::time_point deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  if (left.count() <= 0) return false;
  const bool output = what == WaitsFor::kOutput || !out_.empty();
  pollfd entry = {};
  entry.fd = what == WaitsFor::kResume ? resumes_.get() : socket_.get();
  entry.events = output ? POLLOUT : POLLIN;
  return ::poll(&entry, 1, static_cast<int>(left.count())) != 0;
}

void ScriptedPeer::resume() {
  const uint64_t one = 1;
  if (::write(resumes_.get(), &one, sizeof(one)) == sizeof(one)) return;
  const absl::MutexLock lock(&mutex_);
  problems_.push_back("resume: no eventfd");
}

void ScriptedPeer::finish() {
  if (thread_.joinable()) {
    thread_.join();
  } else {
    run_ready();
  }
  if (script_.empty()) return;
  fail("the script did not get further");
  script_.clear();
}

std::vector<std::string> ScriptedPeer::take_problems() {
  const absl::MutexLock lock(&mutex_);
  return std::exchange(problems_, {});
}

}  // namespace vhost::testing
