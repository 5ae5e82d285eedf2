// SPDX-License-Identifier: Apache-2.0
#include "tests/migration/engine/wire.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <span>
#include <utility>

#include "migration/stream_format.h"

namespace vhost {

Wire::Wire() {
  for (size_t i = 0; i < 2; ++i) {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                           0, fds),
              0);
    near_[i] = UniqueFd(fds[0]);
    far_[i] = UniqueFd(fds[1]);
  }
}

void Wire::plan(RecordType type, Do what, absl::AnyInvocable<void()> call) {
  type_ = type;
  what_ = what;
  call_ = std::move(call);
}

void Wire::hang_up() {
  for (UniqueFd& fd : far_) fd.reset();
}

bool Wire::turn() {
  bool moved = false;
  for (size_t from = 0; from < 2; ++from) {
    moved |= receive(from);
    pass(from);
    moved |= send(from);
  }
  return moved;
}

bool Wire::receive(size_t from) {
  Way& way = ways_[from];
  if (!far_[from].valid() || way.ended) return false;
  std::array<std::byte, 64 << 10> buffer;
  const ssize_t got = ::recv(far_[from].get(), buffer.data(), buffer.size(), 0);
  if (got > 0) {
    way.in.insert(way.in.end(), buffer.begin(), buffer.begin() + got);
    if (from == 0) bytes += static_cast<uint64_t>(got);
    return true;
  }
  way.ended = got == 0;
  return false;
}

void Wire::pass(size_t from) {
  Way& way = ways_[from];
  if (!way.has_header && way.in.size() >= kStreamHeaderSize) {
    const auto header =
        decode_stream_header(std::span(way.in).first<kStreamHeaderSize>());
    ASSERT_TRUE(header.ok()) << header.status();
    way.hashed = header->integrity == Integrity::kXxh3;
    way.has_header = true;
    const auto end = way.in.begin() + kStreamHeaderSize;
    way.out.insert(way.out.end(), way.in.begin(), end);
    way.in.erase(way.in.begin(), end);
  }
  while (way.has_header && pass_record(way)) {
  }
}

bool Wire::pass_record(Way& way) {
  if (way.in.size() < kRecordHeadSize) return false;
  const auto head =
      decode_record_head(std::span(way.in).first<kRecordHeadSize>());
  EXPECT_TRUE(head.ok()) << head.status();
  if (!head.ok()) return false;
  size_t size =
      kRecordHeadSize + head->size + (way.hashed ? kRecordTrailerSize : 0);
  if (way.in.size() < size) return false;
  const size_t whole = size;
  bool last = false;
  if (what_ != Do::kNothing && head->type == type_) {
    happened_ = true;
    const Do what = std::exchange(what_, Do::kNothing);
    if (what == Do::kCall) call_();
    if (what == Do::kSilence) silent_ = true;
    if (what == Do::kFlip) way.in[size - 1] ^= std::byte{1};
    last = what == Do::kCut || what == Do::kHangUp;
    if (what == Do::kCut) size /= 2;
    if (what == Do::kHangUp) size = 0;
  }
  if (!silent_) {
    if (size == whole) seen.push_back(head->type);
    way.out.insert(way.out.end(), way.in.begin(),
                   way.in.begin() + static_cast<ptrdiff_t>(size));
  }
  way.in.erase(way.in.begin(), way.in.begin() + static_cast<ptrdiff_t>(whole));
  if (last) {
    for (size_t from = 0; from < 2; ++from) send(from);
    hang_up();
  }
  return !last;
}

bool Wire::send(size_t from) {
  Way& way = ways_[from];
  UniqueFd& to = far_[1 - from];
  if (!to.valid()) return false;
  bool moved = false;
  while (!way.out.empty()) {
    const ssize_t sent =
        ::send(to.get(), way.out.data(), way.out.size(), MSG_NOSIGNAL);
    if (sent <= 0) break;
    way.out.erase(way.out.begin(), way.out.begin() + sent);
    moved = true;
  }
  if (way.out.empty() && way.ended && !silent_) {
    ::shutdown(to.get(), SHUT_WR);
  }
  return moved;
}

}  // namespace vhost
