// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_RECORDING_H_
#define TOOLS_VHOSTCTL_RECORDING_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Recordings of vhost-user connections: what `vhostctl record` writes and
// `vhostctl decode` reads.  docs/formats/recording.md is the format.
namespace vhost::ctl {

// What happened.
enum class EventKind : uint8_t {
  kBegin = 1,  // A connection, or its back-end channel.
  kMessage = 2,
  kGarbage = 3,  // Bytes that are no message; the channel ended there.
  kEnd = 4,
};

enum class EventChannel : uint8_t { kMain = 0, kBackend = 1 };
enum class EventDirection : uint8_t { kToBackend = 0, kToFrontend = 1 };

// What a descriptor that came with a message is, as far as this was cheap to
// tell.
enum class FdKind : uint8_t {
  kOther = 0,
  kMemfd = 1,
  kFile = 2,
  kEventfd = 3,
  kSocket = 4,
  kPipe = 5,
  kUserfaultfd = 6,
};

struct RecordedFd {
  FdKind kind = FdKind::kOther;
  uint64_t size = 0;  // Bytes, of kMemfd and kFile.

  friend bool operator==(const RecordedFd&, const RecordedFd&) = default;
};

struct Event {
  EventKind kind = EventKind::kMessage;
  EventChannel channel = EventChannel::kMain;
  EventDirection direction = EventDirection::kToBackend;
  uint32_t connection = 0;  // From 1.
  uint64_t time = 0;        // Nanoseconds since the recording began.
  std::vector<RecordedFd> fds = {};
  std::string text = {};  // Why, of kGarbage and kEnd.
  // The message as it was on the wire, its header included; or the garbage.
  std::vector<std::byte> bytes = {};

  friend bool operator==(const Event&, const Event&) = default;
};

// The largest payload of a message.  Twice the largest that the protocol has.
inline constexpr uint32_t kMaxRecordedPayload = 8192;
inline constexpr size_t kMessageHeaderSize = 12;
inline constexpr size_t kMaxEventText = 4096;
inline constexpr size_t kMaxEventFds = 8;

// How a file begins.  `began`: nanoseconds since 1970.
std::vector<std::byte> encode_recording_header(uint64_t began);
// `event` as a record.  What is longer than it may be is cut off.
std::vector<std::byte> encode_event(const Event& event);

// Reads a recording piece by piece.  Memory is bounded whatever the file says.
class RecordingReader {
 public:
  RecordingReader();

  // Where to read to: never empty.
  std::span<std::byte> space();
  void filled(size_t bytes);

  // The next event; empty if more has to be read for it.
  // Errors: kDataLoss         not a recording, or damaged; says where.
  //         kUnimplemented    of a version that is not known here.
  // An error stays.
  absl::StatusOr<std::optional<Event>> next();

  // Once all was read: kDataLoss if the file ends within a record.
  absl::Status finish() const;

  // When the recording began, in nanoseconds since 1970; 0 before it was read.
  uint64_t began() const { return began_; }

 private:
  absl::StatusOr<std::optional<Event>> parse();
  absl::StatusOr<bool> parse_header();

  std::vector<std::byte> buffer_;
  size_t head_ = 0;
  size_t tail_ = 0;
  uint64_t position_ = 0;  // Of buffer_[head_] in the file.
  bool begun_ = false;     // The header was read.
  uint64_t began_ = 0;
  absl::Status status_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_RECORDING_H_
