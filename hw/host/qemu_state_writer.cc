// SPDX-License-Identifier: Apache-2.0
// Source: QEMU's migration stream, "back-end state" of a vhost-user device.
#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hw/host/state_stream.h"
#include "vhostdev/device_state.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

using Length = std::array<std::byte, StateStream::kLengthSize>;

// Below this a pipe is emptied faster by a copy.  Measured:
// bench_device_state.
constexpr int kPipeForSplice = 256 << 10;

Length big_endian(uint32_t value) {
  Length out;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<std::byte>(value >> (24 - 8 * i));
  }
  return out;
}

absl::Status write_error(int error) {
  return errno_status(error, "write of the state");
}

}  // namespace

class QemuStateWriter::Impl {
 public:
  Impl(EventLoop& loop, FdRef fd, StateTransport transport)
      : stream_(loop, fd), transport_(transport) {}

  absl::StatusOr<uint64_t> take(int pipe, uint64_t available);
  absl::StatusOr<bool> end();
  StateStream& stream() { return stream_; }

 private:
  bool splices(int pipe);
  absl::StatusOr<uint64_t> splice_chunk(int pipe, uint64_t available);
  absl::StatusOr<uint64_t> copy_chunk(int pipe, uint64_t available);
  void append(std::span<const std::byte> bytes);
  absl::StatusOr<bool> flush(bool more_follows);

  StateStream stream_;
  StateTransport transport_;  // kAuto until the first pipe.
  // What was taken and not written, and lengths.
  std::vector<std::byte> buffer_;
  size_t written_ = 0;  // Of it.
  uint64_t owed_ = 0;   // Of the chunk whose length was written.
  bool end_said_ = false;
};

bool QemuStateWriter::Impl::splices(int pipe) {
  if (transport_ == StateTransport::kAuto) {
    const bool faster =
        stream_.is_pipe() ||
        (stream_.is_socket() && ::fcntl(pipe, F_GETPIPE_SZ) >= kPipeForSplice);
    transport_ = faster ? StateTransport::kSplice : StateTransport::kCopy;
  }
  return transport_ == StateTransport::kSplice;
}

absl::StatusOr<uint64_t> QemuStateWriter::Impl::take(int pipe,
                                                     uint64_t available) {
  if (available == 0) return 0;
  return splices(pipe) ? splice_chunk(pipe, available)
                       : copy_chunk(pipe, available);
}

absl::StatusOr<uint64_t> QemuStateWriter::Impl::splice_chunk(
    int pipe, uint64_t available) {
  if (owed_ == 0) {
    owed_ = std::min(available, kMaxStateChunk);
    append(big_endian(static_cast<uint32_t>(owed_)));
  }
  const absl::StatusOr<bool> flushed = flush(true);
  if (!flushed.ok()) return flushed.status();
  if (!*flushed) return 0;
  const ssize_t moved =
      ::splice(pipe, nullptr, stream_.fd().get(), nullptr,
               std::min(owed_, available), SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (moved > 0) {
    owed_ -= static_cast<uint64_t>(moved);
    return static_cast<uint64_t>(moved);
  }
  if (moved < 0 && !would_block(errno)) return write_error(errno);
  if (is_ready(FdRef(pipe), POLLIN)) return 0;
  return absl::DataLossError(
      absl::StrCat("the pipe lacks ", owed_, " bytes of a chunk"));
}

absl::StatusOr<uint64_t> QemuStateWriter::Impl::copy_chunk(int pipe,
                                                           uint64_t available) {
  const absl::StatusOr<bool> flushed = flush(false);
  if (!flushed.ok()) return flushed.status();
  if (!*flushed) return 0;
  const size_t most = static_cast<size_t>(std::min(available, kMaxStateChunk));
  buffer_.resize(StateStream::kLengthSize + most);
  const ssize_t got =
      ::read(pipe, buffer_.data() + StateStream::kLengthSize, most);
  if (got <= 0) {
    buffer_.clear();
    if (got < 0 && errno == EINTR) return 0;
    return absl::DataLossError("the pipe has fewer bytes than it said");
  }
  const Length length = big_endian(static_cast<uint32_t>(got));
  std::copy(length.begin(), length.end(), buffer_.begin());
  buffer_.resize(StateStream::kLengthSize + static_cast<size_t>(got));
  const absl::StatusOr<bool> sent = flush(false);
  if (!sent.ok()) return sent.status();
  return static_cast<uint64_t>(got);
}

absl::StatusOr<bool> QemuStateWriter::Impl::end() {
  if (owed_ > 0) {
    return absl::DataLossError(
        absl::StrCat("the state lacks ", owed_, " bytes of a chunk"));
  }
  if (!std::exchange(end_said_, true)) append(big_endian(0));
  return flush(false);
}

void QemuStateWriter::Impl::append(std::span<const std::byte> bytes) {
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

// Whether all of the buffer is written.
absl::StatusOr<bool> QemuStateWriter::Impl::flush(bool more_follows) {
  while (written_ < buffer_.size()) {
    const ssize_t done =
        stream_.write(std::span(buffer_).subspan(written_), more_follows);
    if (done < 0 && would_block(errno)) return false;
    if (done < 0) return write_error(errno);
    written_ += static_cast<size_t>(done);
  }
  buffer_.clear();
  written_ = 0;
  return true;
}

QemuStateWriter::QemuStateWriter(EventLoop& loop, FdRef fd,
                                 StateTransport transport)
    : impl_(std::make_unique<Impl>(loop, fd, transport)) {}
QemuStateWriter::~QemuStateWriter() = default;

absl::StatusOr<uint64_t> QemuStateWriter::take(int pipe, uint64_t available) {
  return impl_->take(pipe, available);
}
void QemuStateWriter::when_ready(absl::AnyInvocable<void()> ready) {
  impl_->stream().when_ready({.writable = true}, std::move(ready));
}
absl::StatusOr<bool> QemuStateWriter::end() { return impl_->end(); }

}  // namespace vhost
