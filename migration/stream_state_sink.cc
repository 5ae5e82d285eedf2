// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/bytes.h"
#include "migration/stream_state.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr size_t kLengthSize = 4;

std::array<std::byte, kLengthSize> length_of(uint64_t chunk) {
  std::array<std::byte, kLengthSize> out = {};
  store_be(std::span(out), static_cast<uint32_t>(chunk));
  return out;
}

absl::Status pipe_lacks(uint64_t bytes) {
  return absl::DataLossError(
      absl::StrCat("the pipe lacks ", bytes, " bytes of a chunk"));
}

}  // namespace

void ReadyCall::post() {
  if (ready_ == nullptr) return;
  loop_.post([this, weak = std::weak_ptr(ready_)] {
    const auto ready = weak.lock();
    // Replaced, called already, or this is gone.
    if (ready == nullptr || ready != ready_) return;
    ready_.reset();
    (*ready)();
  });
}

void StreamStateSink::splice_to(FdRef channel, Flush flush) {
  if (writer_.integrity() != Integrity::kTransport) return;
  channel_ = channel;
  flush_ = std::move(flush);
}

// A payload outside the writer keeps everybody else out.
bool StreamStateSink::can_append() const {
  return writer_.external_left() == 0 &&
         writer_.pending_bytes() < most_pending_;
}

absl::StatusOr<uint64_t> StreamStateSink::take(int pipe, uint64_t available) {
  if (!status_.ok()) return status_;
  if (available == 0) return 0;
  const uint64_t most =
      std::min({available, kMaxStateChunk,
                uint64_t{writer_.max_payload()} - kLengthSize});
  const absl::StatusOr<uint64_t> taken =
      flush_ ? splice_chunk(pipe, most)
             : copy_chunk(pipe, static_cast<size_t>(most));
  if (!taken.ok()) {
    status_ = taken.status();
  } else {
    taken_ += *taken;
  }
  return taken;
}

absl::StatusOr<uint64_t> StreamStateSink::copy_chunk(int pipe, size_t most) {
  if (!can_append()) return 0;
  const absl::StatusOr<std::span<std::byte>> room = writer_.open_record(
      RecordType::kBackendState, device_, kLengthSize + most);
  if (!room.ok()) return room.status();
  const ssize_t got = ::read(pipe, room->data() + kLengthSize, most);
  if (got <= 0) {
    writer_.drop_record();
    if (got < 0 && errno == EINTR) return 0;
    return pipe_lacks(most);
  }
  const auto size = static_cast<size_t>(got);
  store_be(*room, static_cast<uint32_t>(size));
  VHOST_RETURN_IF_ERROR(writer_.close_record(kLengthSize + size));
  tell_appended();
  return size;
}

absl::StatusOr<uint64_t> StreamStateSink::splice_chunk(int pipe,
                                                       uint64_t available) {
  if (!in_chunk_) {
    if (!can_append()) return 0;
    VHOST_RETURN_IF_ERROR(writer_.begin_external(
        RecordType::kBackendState, device_, length_of(available),
        static_cast<size_t>(available)));
    in_chunk_ = true;
    tell_appended();
  }
  const absl::StatusOr<bool> flushed = flush_();
  if (!flushed.ok()) return flushed.status();
  if (!*flushed) return 0;
  const ssize_t moved =
      ::splice(pipe, nullptr, channel_.get(), nullptr,
               std::min<uint64_t>(writer_.external_left(), available),
               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (moved < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (moved < 0) return errno_status(errno, "splice of the state");
  if (moved == 0) return pipe_lacks(writer_.external_left());
  writer_.external_moved(static_cast<size_t>(moved));
  in_chunk_ = writer_.external_left() != 0;
  // It is others' turn.
  if (!in_chunk_) tell_appended();
  return static_cast<uint64_t>(moved);
}

absl::StatusOr<bool> StreamStateSink::end() {
  if (!status_.ok()) return status_;
  if (in_chunk_) return pipe_lacks(writer_.external_left());
  if (!can_append()) return false;
  VHOST_RETURN_IF_ERROR(
      writer_.record(RecordType::kBackendStateEnd, device_, length_of(0)));
  status_ = absl::FailedPreconditionError("the state has ended");
  tell_appended();
  return true;
}

void StreamStateSink::when_ready(absl::AnyInvocable<void()> ready) {
  ready_.set(std::move(ready));
  // What can go on without the channel need not wait for it.
  if (!status_.ok() || (!flush_ && can_append())) ready_.post();
}

void StreamStateSink::room() {
  if (!status_.ok()) return;
  if (in_chunk_ || can_append()) ready_.post();
}

void StreamStateSink::give_up() {
  if (!in_chunk_) return;
  in_chunk_ = false;
  writer_.give_up_external();
  tell_appended();
}

void StreamStateSink::fail(const absl::Status& why) {
  if (status_.ok()) status_ = why;
  ready_.post();
}

}  // namespace vhost
