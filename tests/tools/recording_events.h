// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_TOOLS_RECORDING_EVENTS_H_
#define TESTS_TOOLS_RECORDING_EVENTS_H_

#include <cstring>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "backends/user/wire.h"
#include "tools/vhostctl/recording.h"

namespace vhost::ctl {

// A message as it is on the wire.
inline std::vector<std::byte> wire_message(uint32_t request, uint32_t flags,
                                           std::span<const std::byte> payload) {
  const user::wire::Header header = {
      .request = request,
      .flags = flags,
      .size = static_cast<uint32_t>(payload.size())};
  std::vector<std::byte> out(sizeof(header) + payload.size());
  std::memcpy(out.data(), &header, sizeof(header));
  if (!payload.empty()) {
    std::memcpy(out.data() + sizeof(header), payload.data(), payload.size());
  }
  return out;
}

template <user::wire::WireStruct T>
std::vector<std::byte> wire_message(uint32_t request, uint32_t flags,
                                    const T& payload) {
  return wire_message(request, flags, user::wire::bytes_of(payload));
}

// One event of each kind, with descriptors, on both channels.
inline std::vector<Event> sample_events() {
  std::vector<Event> out;
  out.push_back({.kind = EventKind::kBegin, .connection = 1, .time = 1000});
  out.push_back(
      {.connection = 1,
       .time = 123456,
       .fds = {{.kind = FdKind::kMemfd, .size = 2097152}},
       .bytes = wire_message(37, 9,
                             user::wire::SingleMemoryRegion{
                                 .padding = 0,
                                 .region = {.guest_address = 0x100000,
                                            .size = 0x200000,
                                            .user_address = 0x7f0000000000,
                                            .mmap_offset = 0}})});
  out.push_back({.direction = EventDirection::kToFrontend,
                 .connection = 1,
                 .time = 234567,
                 .bytes = wire_message(37, 5, uint64_t{0})});
  out.push_back({.kind = EventKind::kBegin,
                 .channel = EventChannel::kBackend,
                 .connection = 1,
                 .time = 250000});
  out.push_back({.channel = EventChannel::kBackend,
                 .direction = EventDirection::kToFrontend,
                 .connection = 1,
                 .time = 300000,
                 .bytes = wire_message(2, 9, std::span<const std::byte>())});
  out.push_back({.kind = EventKind::kGarbage,
                 .direction = EventDirection::kToFrontend,
                 .connection = 1,
                 .time = 400000,
                 .text = "version 2",
                 .bytes = wire_message(1, 2, std::span<const std::byte>())});
  out.push_back({.kind = EventKind::kEnd,
                 .connection = 1,
                 .time = 2000000000,
                 .text = "back-end sent garbage: version 2"});
  return out;
}

inline constexpr uint64_t kSampleBegan = 1700000000000000000;

inline std::vector<std::byte> encode_all(const std::vector<Event>& events) {
  std::vector<std::byte> out = encode_recording_header(kSampleBegan);
  for (const Event& event : events) {
    const std::vector<std::byte> record = encode_event(event);
    out.insert(out.end(), record.begin(), record.end());
  }
  return out;
}

// What a reader makes of a whole file, given `piece` bytes at a time.
struct ReadResult {
  std::vector<Event> events;
  absl::Status status;
};
inline ReadResult read_all(std::span<const std::byte> file,
                           size_t piece = 4096) {
  ReadResult out;
  RecordingReader reader;
  while (true) {
    const std::span<std::byte> space = reader.space();
    const size_t n = std::min({space.size(), piece, file.size()});
    if (n != 0) std::memcpy(space.data(), file.data(), n);
    file = file.subspan(n);
    reader.filled(n);
    while (true) {
      absl::StatusOr<std::optional<Event>> event = reader.next();
      if (!event.ok()) {
        out.status = event.status();
        return out;
      }
      if (!event->has_value()) break;
      out.events.push_back(**std::move(event));
    }
    if (file.empty()) break;
  }
  out.status = reader.finish();
  return out;
}

}  // namespace vhost::ctl

#endif  // TESTS_TOOLS_RECORDING_EVENTS_H_
