// SPDX-License-Identifier: Apache-2.0
//
//   file   = header record*
//   header = "vhostrec" version:u32 reserved:u32 began:u64
//   record = size:u32 checksum:u64 body
//   body   = kind:u8 channel:u8 direction:u8 fds:u8 connection:u32 time:u64
//            text_size:u32 byte_count:u32 fd*fds text bytes
//   fd     = kind:u8 reserved:u8*7 size:u64
//
// All integers are little-endian.
#include "tools/vhostctl/recording.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr char kMagic[] = {'v', 'h', 'o', 's', 't', 'r', 'e', 'c'};
constexpr uint32_t kVersion = 1;
constexpr size_t kFileHeaderSize = 24;
constexpr size_t kRecordHeadSize = 12;
constexpr size_t kBodyHeadSize = 24;
constexpr size_t kFdSize = 16;
constexpr size_t kMaxBytes = kMessageHeaderSize + kMaxRecordedPayload;
constexpr size_t kMaxBody =
    kBodyHeadSize + kMaxEventFds * kFdSize + kMaxEventText + kMaxBytes;
constexpr size_t kBufferSize = 2 * (kRecordHeadSize + kMaxBody);

template <std::unsigned_integral T>
void put(std::vector<std::byte>& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out.push_back(static_cast<std::byte>(value >> (8 * i) & 0xff));
  }
}

// Takes integers and bytes off the front; what is not there is 0.  Sizes are
// checked before.
class Taker {
 public:
  explicit Taker(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <std::unsigned_integral T>
  T take() {
    uint64_t out = 0;
    for (size_t i = 0; i < sizeof(T) && i < bytes_.size(); ++i) {
      out |= std::to_integer<uint64_t>(bytes_[i]) << (8 * i);
    }
    take(sizeof(T));
    return static_cast<T>(out);
  }
  std::span<const std::byte> take(size_t size) {
    size = std::min(size, bytes_.size());
    const std::span<const std::byte> out = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return out;
  }
  size_t left() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
};

// The size is part of what is checked.
uint64_t checksum(std::span<const std::byte> body) {
  return XXH3_64bits_withSeed(body.data(), body.size(), body.size());
}

bool known(EventKind kind) {
  switch (kind) {
    case EventKind::kBegin:
    case EventKind::kMessage:
    case EventKind::kGarbage:
    case EventKind::kEnd:
      return true;
  }
  return false;
}

absl::Status check_message(const Event& event) {
  if (event.bytes.size() < kMessageHeaderSize) {
    return absl::DataLossError("a message shorter than its header");
  }
  Taker header(event.bytes);
  header.take(8);
  const auto size = header.take<uint32_t>();
  if (size == header.left()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("a message of ", header.left(), " bytes that says ", size));
}

absl::Status check(const Event& event) {
  if (event.kind == EventKind::kMessage) {
    if (!event.text.empty()) return absl::DataLossError("a message with text");
    return check_message(event);
  }
  if (event.kind == EventKind::kGarbage) return absl::OkStatus();
  if (event.bytes.empty() && event.fds.empty()) return absl::OkStatus();
  return absl::DataLossError("a beginning or an end with bytes");
}

absl::StatusOr<RecordedFd> parse_fd(Taker& taker) {
  RecordedFd out;
  const auto kind = taker.take<uint8_t>();
  for (const std::byte reserved : taker.take(7)) {
    if (reserved != std::byte{0}) {
      return absl::DataLossError("a descriptor with reserved bytes");
    }
  }
  if (kind > static_cast<uint8_t>(FdKind::kUserfaultfd)) {
    return absl::DataLossError(absl::StrCat("descriptor kind ", kind));
  }
  out.kind = static_cast<FdKind>(kind);
  out.size = taker.take<uint64_t>();
  return out;
}

absl::StatusOr<Event> parse_body(std::span<const std::byte> body) {
  Taker taker(body);
  Event out;
  out.kind = EventKind{taker.take<uint8_t>()};
  const auto channel = taker.take<uint8_t>();
  const auto direction = taker.take<uint8_t>();
  const auto fds = taker.take<uint8_t>();
  if (!known(out.kind)) {
    return absl::DataLossError(
        absl::StrCat("event kind ", static_cast<int>(out.kind)));
  }
  if (channel > 1 || direction > 1 || fds > kMaxEventFds) {
    return absl::DataLossError(absl::StrCat("channel ", channel, ", direction ",
                                            direction, ", ", fds,
                                            " descriptors"));
  }
  out.channel = EventChannel{channel};
  out.direction = EventDirection{direction};
  out.connection = taker.take<uint32_t>();
  out.time = taker.take<uint64_t>();
  const auto text_size = taker.take<uint32_t>();
  const auto byte_count = taker.take<uint32_t>();
  if (text_size > kMaxEventText || byte_count > kMaxBytes ||
      taker.left() != fds * kFdSize + text_size + byte_count) {
    return absl::DataLossError("sizes that do not add up");
  }
  for (size_t i = 0; i < fds; ++i) {
    const absl::StatusOr<RecordedFd> fd = parse_fd(taker);
    if (!fd.ok()) return fd.status();
    out.fds.push_back(*fd);
  }
  for (const std::byte b : taker.take(text_size)) {
    out.text.push_back(static_cast<char>(b));
  }
  const std::span<const std::byte> bytes = taker.take(byte_count);
  out.bytes.assign(bytes.begin(), bytes.end());
  VHOST_RETURN_IF_ERROR(check(out));
  return out;
}

}  // namespace

std::vector<std::byte> encode_recording_header(uint64_t began) {
  std::vector<std::byte> out;
  for (const char c : kMagic) out.push_back(static_cast<std::byte>(c));
  put(out, kVersion);
  put(out, uint32_t{0});
  put(out, began);
  return out;
}

std::vector<std::byte> encode_event(const Event& event) {
  const size_t fds = std::min(event.fds.size(), kMaxEventFds);
  const size_t text_size = std::min(event.text.size(), kMaxEventText);
  const size_t byte_count = std::min(event.bytes.size(), kMaxBytes);
  std::vector<std::byte> body;
  body.reserve(kBodyHeadSize + fds * kFdSize + text_size + byte_count);
  put(body, static_cast<uint8_t>(event.kind));
  put(body, static_cast<uint8_t>(event.channel));
  put(body, static_cast<uint8_t>(event.direction));
  put(body, static_cast<uint8_t>(fds));
  put(body, event.connection);
  put(body, event.time);
  put(body, static_cast<uint32_t>(text_size));
  put(body, static_cast<uint32_t>(byte_count));
  for (size_t i = 0; i < fds; ++i) {
    put(body, static_cast<uint64_t>(event.fds[i].kind));
    put(body, event.fds[i].size);
  }
  for (size_t i = 0; i < text_size; ++i) {
    body.push_back(static_cast<std::byte>(event.text[i]));
  }
  body.insert(body.end(), event.bytes.begin(),
              event.bytes.begin() + static_cast<ptrdiff_t>(byte_count));
  std::vector<std::byte> out;
  out.reserve(kRecordHeadSize + body.size());
  put(out, static_cast<uint32_t>(body.size()));
  put(out, checksum(body));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

// ---------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------

RecordingReader::RecordingReader() : buffer_(kBufferSize) {}

std::span<std::byte> RecordingReader::space() {
  if (head_ != 0) {
    std::memmove(buffer_.data(), buffer_.data() + head_, tail_ - head_);
    tail_ -= head_;
    head_ = 0;
  }
  // A caller that reads on after an error reads for nobody.
  if (tail_ == buffer_.size()) tail_ = 0;
  return std::span(buffer_).subspan(tail_);
}

void RecordingReader::filled(size_t bytes) {
  tail_ += std::min(bytes, buffer_.size() - tail_);
}

absl::StatusOr<std::optional<Event>> RecordingReader::next() {
  if (!status_.ok()) return status_;
  absl::StatusOr<std::optional<Event>> event = parse();
  if (!event.ok()) status_ = event.status();
  return event;
}

absl::StatusOr<bool> RecordingReader::parse_header() {
  if (tail_ - head_ < kFileHeaderSize) return false;
  const auto input = std::span<const std::byte>(buffer_);
  Taker taker(input.subspan(head_, kFileHeaderSize));
  const std::span<const std::byte> magic = taker.take(sizeof(kMagic));
  if (std::memcmp(magic.data(), kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("not a recording of vhostctl");
  }
  const auto version = taker.take<uint32_t>();
  if (version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat("recording of version ", version, ", not ", kVersion));
  }
  if (taker.take<uint32_t>() != 0) {
    return absl::DataLossError("reserved bytes in the header");
  }
  began_ = taker.take<uint64_t>();
  begun_ = true;
  head_ += kFileHeaderSize;
  position_ += kFileHeaderSize;
  return true;
}

absl::StatusOr<std::optional<Event>> RecordingReader::parse() {
  if (!begun_) {
    const absl::StatusOr<bool> header = parse_header();
    if (!header.ok()) return header.status();
    if (!*header) return std::nullopt;
  }
  const auto input =
      std::span<const std::byte>(buffer_).subspan(head_, tail_ - head_);
  if (input.size() < kRecordHeadSize) return std::nullopt;
  const std::string where = absl::StrCat("record at byte ", position_);
  Taker taker(input);
  const auto size = taker.take<uint32_t>();
  const auto sum = taker.take<uint64_t>();
  if (size < kBodyHeadSize || size > kMaxBody) {
    return absl::DataLossError(absl::StrCat(where, ": ", size, " bytes, not ",
                                            kBodyHeadSize, " to ", kMaxBody));
  }
  if (taker.left() < size) return std::nullopt;
  const std::span<const std::byte> body = taker.take(size);
  if (checksum(body) != sum) {
    return absl::DataLossError(absl::StrCat(where, ": damaged (checksum)"));
  }
  absl::StatusOr<Event> event = parse_body(body);
  if (!event.ok()) return annotate(event.status(), where);
  head_ += kRecordHeadSize + size;
  position_ += kRecordHeadSize + size;
  return *std::move(event);
}

absl::Status RecordingReader::finish() const {
  if (!status_.ok()) return status_;
  if (!begun_) return absl::DataLossError("not a recording: too short");
  if (head_ == tail_) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the recording ends within the "
                   "record at byte ",
                   position_));
}

}  // namespace vhost::ctl
