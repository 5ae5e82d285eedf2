// SPDX-License-Identifier: Apache-2.0
//
// backend_state     = length:be32 byte[length]     length: 1 to kMaxStateChunk
// backend_state_end = 0:be32
#include "migration/state_records.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr size_t kLength = 4;

void store_be32(std::span<std::byte> out, uint32_t value) {
  for (size_t i = 0; i < kLength; ++i) {
    out[i] = static_cast<std::byte>(value >> (24 - 8 * i));
  }
}

uint32_t load_be32(std::span<const std::byte> in) {
  uint32_t out = 0;
  for (size_t i = 0; i < kLength; ++i) {
    out = out << 8 | std::to_integer<uint32_t>(in[i]);
  }
  return out;
}

}  // namespace

absl::Status RecordSink::no_channel() const {
  return absl::UnavailableError("the migration's channel is gone");
}

bool RecordSink::has_room() const {
  return channel_ == nullptr || channel_->writer().pending_bytes() < kRoom;
}

absl::StatusOr<uint64_t> RecordSink::take(int pipe, uint64_t available) {
  if (channel_ == nullptr) return no_channel();
  if (!has_room()) return uint64_t{0};
  const size_t most = std::min<uint64_t>(available, kMaxStateChunk);
  StreamWriter& writer = channel_->writer();
  const absl::StatusOr<std::span<std::byte>> room =
      writer.open_record(RecordType::kBackendState, device_, kLength + most);
  if (!room.ok()) return room.status();
  const ssize_t got = ::read(pipe, room->data() + kLength, most);
  if (got <= 0) {
    const int error = errno;
    writer.drop_record();
    if (got < 0 && (error == EAGAIN || error == EINTR)) return uint64_t{0};
    if (got < 0) return errno_status(error, "device state: read");
    return absl::DataLossError("device state: the pipe is empty");
  }
  const auto size = static_cast<size_t>(got);
  store_be32(room->first(kLength), static_cast<uint32_t>(size));
  VHOST_RETURN_IF_ERROR(writer.close_record(kLength + size));
  bytes_ += size;
  channel_->wake();
  return size;
}

absl::StatusOr<bool> RecordSink::end() {
  if (channel_ == nullptr) return no_channel();
  const std::array<std::byte, kLength> zero = {};
  VHOST_RETURN_IF_ERROR(
      channel_->writer().record(RecordType::kBackendStateEnd, device_, zero));
  channel_->wake();
  return true;
}

// Told when the channel has sent something, which it does as long as there is
// no room.
void RecordSink::when_ready(absl::AnyInvocable<void()> ready) {
  ready_ = std::move(ready);
  if (ready_ == nullptr || !has_room()) return;
  loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
    if (!alive.expired()) look_again();
  });
}

void RecordSink::look_again() {
  if (ready_ == nullptr || !has_room()) return;
  std::exchange(ready_, nullptr)();
}

absl::Status RecordSource::add(std::span<const std::byte> payload) {
  if (ended_) return absl::DataLossError("device state: goes on after its end");
  if (payload.size() <= kLength || payload.size() > kLength + kMaxStateChunk ||
      load_be32(payload) != payload.size() - kLength) {
    return absl::DataLossError(
        absl::StrCat("device state: a record of ", payload.size(), " bytes"));
  }
  const auto chunk = payload.subspan(kLength);
  chunks_.emplace_back(chunk.begin(), chunk.end());
  kept_ += chunk.size();
  bytes_ += chunk.size();
  tell();
  return absl::OkStatus();
}

absl::Status RecordSource::add_end(std::span<const std::byte> payload) {
  if (ended_ || payload.size() != kLength || load_be32(payload) != 0) {
    return absl::DataLossError("device state: not an end");
  }
  ended_ = true;
  tell();
  return absl::OkStatus();
}

absl::StatusOr<StateSource::Given> RecordSource::give(int pipe, uint64_t most) {
  Given given;
  while (!chunks_.empty() && given.bytes < most) {
    const std::vector<std::byte>& chunk = chunks_.front();
    const size_t size =
        std::min<uint64_t>(chunk.size() - offset_, most - given.bytes);
    const ssize_t out = ::write(pipe, chunk.data() + offset_, size);
    if (out < 0 && (errno == EAGAIN || errno == EINTR)) break;
    if (out < 0) return errno_status(errno, "device state: write");
    const auto written = static_cast<size_t>(out);
    given.bytes += written;
    offset_ += written;
    kept_ -= written;
    if (offset_ == chunk.size()) {
      chunks_.pop_front();
      offset_ = 0;
    }
    if (written < size) break;
  }
  given.ended = chunks_.empty() && ended_;
  given.dry = chunks_.empty() && !ended_;
  if (given.bytes != 0) taken_();
  return given;
}

void RecordSource::when_ready(absl::AnyInvocable<void()> ready) {
  ready_ = std::move(ready);
  if (ready_ != nullptr && (!chunks_.empty() || ended_)) tell();
}

// Never inside a call of the reader's.
void RecordSource::tell() {
  if (ready_ == nullptr) return;
  loop_.post([this, alive = std::weak_ptr<char>(alive_)] {
    if (alive.expired() || ready_ == nullptr) return;
    std::exchange(ready_, nullptr)();
  });
}

}  // namespace vhost
