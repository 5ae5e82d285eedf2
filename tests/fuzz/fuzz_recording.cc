// SPDX-License-Identifier: Apache-2.0
//
// A recording of any bytes: piece:u8 file...  What is read of it is written the
// same way again, and has words.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "tests/tools/recording_events.h"
#include "tools/vhostctl/recording_text.h"

namespace vhost::ctl {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void run(std::span<const std::byte> input) {
  if (input.empty()) return;
  const size_t piece = 1 + std::to_integer<size_t>(input.front());
  input = input.subspan(1);
  const ReadResult read = read_all(input, piece);
  // Whatever the pieces are.
  check(read_all(input).events == read.events);
  constexpr size_t kHeader = 24;
  size_t at = kHeader;
  for (const Event& event : read.events) {
    const std::vector<std::byte> again = encode_event(event);
    check(at + again.size() <= input.size());
    check(std::memcmp(again.data(), input.data() + at, again.size()) == 0);
    at += again.size();
    check(!event_text(event).empty());
    check(event_json(event).is_object());
  }
  check(!read.status.ok() || input.size() == at);
}

// A message of any bytes, which no checksum protects: fields must bear it.
void describe(std::span<const std::byte> input) {
  if (input.size() < 2) return;
  Event event;
  event.channel =
      EventChannel{std::to_integer<uint8_t>(input[0] & std::byte{1})};
  input = input.subspan(1);
  event.bytes.assign(input.begin(), input.end());
  check(!event_text(event).empty());
  check(event_json(event).is_object());
}

}  // namespace
}  // namespace vhost::ctl

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  vhost::ctl::run(input);
  vhost::ctl::describe(input);
  return 0;
}
