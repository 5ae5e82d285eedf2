// SPDX-License-Identifier: Apache-2.0
// Source: QEMU's migration stream, "back-end state" of a vhost-user device.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hw/host/state_stream.h"
#include "vhostdev/device_state.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// After so many bytes the loop gets a turn.
constexpr uint64_t kTurnBytes = kMaxStateChunk;

absl::Status read_error(int error) {
  return errno_status(error, "read of the state");
}

absl::Status pipe_error(int error) {
  return errno_status(error, "write to the back-end");
}

}  // namespace

class QemuStateReader::Impl {
 public:
  Impl(EventLoop& loop, FdRef fd, StateTransport transport, uint64_t most_chunk)
      : stream_(loop, fd), most_chunk_(most_chunk) {
    const bool faster = stream_.is_socket() || stream_.is_pipe();
    splices_ = transport == StateTransport::kSplice ||
               (transport == StateTransport::kAuto && faster);
  }

  absl::StatusOr<Given> give(int pipe, uint64_t most);
  StateStream& stream() { return stream_; }

 private:
  // What stopped one step.
  enum class Step : uint8_t { kMoved, kDry, kFull };

  absl::StatusOr<Step> read_length();
  absl::StatusOr<Step> move(int pipe, uint64_t most, uint64_t& moved);
  absl::StatusOr<Step> splice_some(int pipe, uint64_t most, uint64_t& moved);
  absl::StatusOr<Step> copy_some(int pipe, uint64_t most, uint64_t& moved);
  absl::Status cut_short() const;

  StateStream stream_;
  const uint64_t most_chunk_;
  bool splices_;
  std::array<std::byte, StateStream::kLengthSize> length_;
  size_t length_read_ = 0;
  uint64_t left_ = 0;   // Of the chunk, in the stream.
  uint64_t given_ = 0;  // Since the start.
  bool ended_ = false;
  std::vector<std::byte> buffer_;  // Read, and not in the pipe yet.
  size_t written_ = 0;             // Of it.
};

absl::StatusOr<StateSource::Given> QemuStateReader::Impl::give(int pipe,
                                                               uint64_t most) {
  Given given;
  const uint64_t limit = std::min(most, kTurnBytes);
  while (!ended_ && given.bytes < limit) {
    const bool between = left_ == 0 && buffer_.empty();
    const absl::StatusOr<Step> step =
        between ? read_length() : move(pipe, limit - given.bytes, given.bytes);
    if (!step.ok()) return step.status();
    if (*step == Step::kMoved) continue;
    given.dry = *step == Step::kDry;
    break;
  }
  given.ended = ended_;
  return given;
}

absl::StatusOr<QemuStateReader::Impl::Step>
QemuStateReader::Impl::read_length() {
  const ssize_t got = stream_.read(std::span(length_).subspan(length_read_));
  if (got < 0 && would_block(errno)) return Step::kDry;
  if (got < 0) return read_error(errno);
  if (got == 0) return cut_short();
  length_read_ += static_cast<size_t>(got);
  if (length_read_ < length_.size()) return Step::kMoved;
  length_read_ = 0;
  for (const std::byte byte : length_) {
    left_ = left_ << 8 | static_cast<uint64_t>(byte);
  }
  if (left_ > most_chunk_) {
    return absl::DataLossError(
        absl::StrCat("chunk of ", left_, " bytes at byte ", given_,
                     " of the state; at most ", most_chunk_));
  }
  ended_ = left_ == 0;
  return Step::kMoved;
}

absl::StatusOr<QemuStateReader::Impl::Step> QemuStateReader::Impl::move(
    int pipe, uint64_t most, uint64_t& moved) {
  const uint64_t before = moved;
  const absl::StatusOr<Step> step =
      splices_ ? splice_some(pipe, most, moved) : copy_some(pipe, most, moved);
  given_ += moved - before;
  return step;
}

absl::StatusOr<QemuStateReader::Impl::Step> QemuStateReader::Impl::splice_some(
    int pipe, uint64_t most, uint64_t& moved) {
  const ssize_t done =
      ::splice(stream_.fd().get(), nullptr, pipe, nullptr,
               std::min(left_, most), SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (done == 0) return cut_short();
  if (done > 0) {
    left_ -= static_cast<uint64_t>(done);
    moved += static_cast<uint64_t>(done);
    return Step::kMoved;
  }
  if (errno == EPIPE) return pipe_error(errno);
  if (!would_block(errno)) return read_error(errno);
  return is_ready(FdRef(pipe), POLLOUT) ? Step::kDry : Step::kFull;
}

absl::StatusOr<QemuStateReader::Impl::Step> QemuStateReader::Impl::copy_some(
    int pipe, uint64_t most, uint64_t& moved) {
  if (buffer_.empty()) {
    buffer_.resize(static_cast<size_t>(std::min(left_, kMaxStateChunk)));
    const ssize_t got = stream_.read(buffer_);
    if (got <= 0) buffer_.clear();
    if (got < 0 && would_block(errno)) return Step::kDry;
    if (got < 0) return read_error(errno);
    if (got == 0) return cut_short();
    buffer_.resize(static_cast<size_t>(got));
    left_ -= static_cast<uint64_t>(got);
  }
  const size_t part =
      static_cast<size_t>(std::min<uint64_t>(buffer_.size() - written_, most));
  const ssize_t done = ::write(pipe, buffer_.data() + written_, part);
  if (done < 0 && would_block(errno)) return Step::kFull;
  if (done < 0) return pipe_error(errno);
  moved += static_cast<uint64_t>(done);
  written_ += static_cast<size_t>(done);
  if (written_ == buffer_.size()) {
    buffer_.clear();
    written_ = 0;
  }
  return Step::kMoved;
}

absl::Status QemuStateReader::Impl::cut_short() const {
  return absl::DataLossError(absl::StrCat(
      "the stream ends after ", given_, " bytes of the state, before its end"));
}

QemuStateReader::QemuStateReader(EventLoop& loop, FdRef fd,
                                 StateTransport transport, uint64_t most_chunk)
    : impl_(std::make_unique<Impl>(loop, fd, transport, most_chunk)) {}
QemuStateReader::~QemuStateReader() = default;

absl::StatusOr<StateSource::Given> QemuStateReader::give(int pipe,
                                                         uint64_t most) {
  return impl_->give(pipe, most);
}
void QemuStateReader::when_ready(absl::AnyInvocable<void()> ready) {
  impl_->stream().when_ready({.readable = true}, std::move(ready));
}

}  // namespace vhost
