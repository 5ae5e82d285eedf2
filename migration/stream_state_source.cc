// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/bytes.h"
#include "migration/stream_state.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// After so many bytes the loop gets a turn.
constexpr uint64_t kTurnBytes = kMaxStateChunk;

bool has_room(int pipe) {
  pollfd one = {.fd = pipe, .events = POLLOUT, .revents = 0};
  return ::poll(&one, 1, 0) == 1 && (one.revents & POLLOUT) != 0;
}

}  // namespace

void StreamStateSource::splice_from(FdRef channel, StreamReader& reader,
                                    absl::AnyInvocable<void()> watch) {
  channel_ = channel;
  reader_ = &reader;
  watch_ = std::move(watch);
}

absl::Status StreamStateSource::add(const StreamRecord& record) {
  Taker taker(record.payload);
  const auto length = taker.take<uint32_t>();
  const uint64_t size = uint64_t{taker.left()} + record.external;
  const bool last = record.type == RecordType::kBackendStateEnd;
  if (ended_) {
    return absl::DataLossError(
        absl::StrCat(to_string(record.type), ": the state has ended"));
  }
  // Who lets payloads pass lets them pass to us.
  if (!taker.complete() || length != size || (length == 0) != last ||
      length > kMaxStateChunk || (record.external != 0 && reader_ == nullptr)) {
    return absl::DataLossError(absl::StrCat(to_string(record.type),
                                            ": a chunk of ", size,
                                            " bytes that says ", length));
  }
  const std::span<const std::byte> bytes = taker.rest();
  if (!bytes.empty()) {
    std::memcpy(buffer_.room(bytes.size()).data(), bytes.data(), bytes.size());
    buffer_.added(bytes.size());
  }
  in_channel_ = record.external != 0;
  ended_ = last;
  ready_.post();
  return absl::OkStatus();
}

bool StreamStateSource::full() const {
  return in_channel_ || buffer_.size() >= most_buffered_;
}

void StreamStateSource::on_room(absl::AnyInvocable<void()> room) {
  room_.set(std::move(room));
  if (!full()) room_.post();
}

void StreamStateSource::fail(const absl::Status& why) {
  if (status_.ok()) status_ = why;
  ready_.post();
}

absl::StatusOr<StateSource::Given> StreamStateSource::give(int pipe,
                                                           uint64_t most) {
  Given out;
  const uint64_t limit = std::min(most, kTurnBytes);
  bool dry = false;
  // What is here already is good, however the stream went on.
  while (out.bytes < limit) {
    if (buffer_.size() == 0 && !status_.ok()) return status_;
    const absl::StatusOr<Step> step = move(pipe, limit - out.bytes, out.bytes);
    if (!step.ok()) return status_ = step.status();
    dry = *step == Step::kDry;
    if (*step != Step::kMoved) break;
  }
  given_ += out.bytes;
  out.ended = ended_ && buffer_.size() == 0;
  out.dry = dry && !out.ended;
  if (!full()) room_.post();
  return out;
}

absl::StatusOr<StreamStateSource::Step> StreamStateSource::move(
    int pipe, uint64_t most, uint64_t& moved) {
  if (buffer_.size() != 0) return write_some(pipe, most, moved);
  if (in_channel_) return splice_some(pipe, most, moved);
  return Step::kDry;
}

absl::StatusOr<StreamStateSource::Step> StreamStateSource::write_some(
    int pipe, uint64_t most, uint64_t& moved) {
  const std::span<const std::byte> bytes = buffer_.bytes();
  const ssize_t done =
      ::write(pipe, bytes.data(), std::min<uint64_t>(bytes.size(), most));
  if (done < 0 && errno == EAGAIN) return Step::kFull;
  if (done < 0) return errno_status(errno, "write to the back-end");
  buffer_.consume(static_cast<size_t>(done));
  moved += static_cast<uint64_t>(done);
  return Step::kMoved;
}

absl::StatusOr<StreamStateSource::Step> StreamStateSource::splice_some(
    int pipe, uint64_t most, uint64_t& moved) {
  const ssize_t done =
      ::splice(channel_.get(), nullptr, pipe, nullptr,
               std::min<uint64_t>(reader_->external_left(), most),
               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (done < 0 && errno == EAGAIN) {
    return has_room(pipe) ? Step::kDry : Step::kFull;
  }
  if (done < 0) return errno_status(errno, "splice of the state");
  if (done == 0) {
    return absl::DataLossError("the stream ends within a chunk of state");
  }
  reader_->external_moved(static_cast<size_t>(done));
  in_channel_ = reader_->external_left() != 0;
  moved += static_cast<uint64_t>(done);
  return Step::kMoved;
}

void StreamStateSource::when_ready(absl::AnyInvocable<void()> ready) {
  ready_.set(std::move(ready));
  if (!status_.ok() || ended_ || buffer_.size() != 0) {
    ready_.post();
  } else if (in_channel_ && ready_.is_set()) {
    watch_();
  }
}

}  // namespace vhost
