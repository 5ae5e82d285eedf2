// SPDX-License-Identifier: Apache-2.0

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/recording.h"
#include "tools/vhostctl/recording_text.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// Prints what was read so far; all of it before an error is reported.
class Printer {
 public:
  explicit Printer(bool json) : json_(json) {}

  absl::Status add(const Event& event) {
    if (json_) {
      // A peer's text need not be UTF-8.
      absl::StrAppend(&text_,
                      event_json(event).dump(-1, ' ', false,
                                             Json::error_handler_t::replace));
    } else {
      absl::StrAppend(&text_, event_text(event));
    }
    text_.push_back('\n');
    constexpr size_t kEnough = size_t{64} * 1024;
    return text_.size() < kEnough ? absl::OkStatus() : flush();
  }
  absl::Status flush() {
    const absl::Status status = print_text(text_);
    text_.clear();
    return status;
  }

 private:
  const bool json_;
  std::string text_;
};

absl::Status print_events(RecordingReader& reader, Printer& printer) {
  while (true) {
    const absl::StatusOr<std::optional<Event>> event = reader.next();
    if (!event.ok()) return event.status();
    if (!event->has_value()) return absl::OkStatus();
    VHOST_RETURN_IF_ERROR(printer.add(**event));
  }
}

absl::Status print_recording(FdRef input, Printer& printer) {
  RecordingReader reader;
  while (true) {
    const std::span<std::byte> space = reader.space();
    const absl::StatusOr<size_t> got = read_full(input, space);
    if (!got.ok()) return got.status();
    reader.filled(*got);
    VHOST_RETURN_IF_ERROR(print_events(reader, printer));
    if (*got < space.size()) return reader.finish();
  }
}

}  // namespace

absl::Status run_decode(const Options& options) {
  const absl::StatusOr<UniqueFd> input = open_input(options.input);
  if (!input.ok()) return input.status();
  Printer printer(options.json);
  const absl::Status read = print_recording(*input, printer);
  const absl::Status printed = printer.flush();
  if (read.ok()) return printed;
  return annotate(read,
                  options.input == "-" ? "standard input" : options.input);
}

}  // namespace vhost::ctl
