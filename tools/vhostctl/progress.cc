// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/output.h"

namespace vhost::ctl {
namespace {

constexpr Duration kRedraw = std::chrono::milliseconds(100);
// Cursor to the first column, the rest of the line erased.
constexpr absl::string_view kClear = "\r\033[K";

unsigned terminal_columns() {
  winsize size = {};
  const bool known =
      ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

void draw(absl::string_view text) {
  // A bar that cannot be drawn is no reason to stop.
  static_cast<void>(
      write_full(FdRef(STDERR_FILENO),
                 std::as_bytes(std::span(text.data(), text.size()))));
}

}  // namespace

std::string progress_line(absl::string_view what, uint64_t done, uint64_t total,
                          double bytes_per_second, unsigned columns) {
  const std::string speed =
      absl::StrCat(human_bytes(static_cast<uint64_t>(bytes_per_second)), "/s");
  if (total == 0) {
    return absl::StrCat(what, "  ", human_bytes(done), "  ", speed);
  }
  const double part =
      std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const std::string tail =
      absl::StrFormat("%3d %%  %s", static_cast<int>(part * 100), speed);
  // Blanks and brackets around the bar, and a free last column: a full line
  // would wrap.
  const size_t around = what.size() + tail.size() + 7;
  if (columns < around + 5) return absl::StrCat(what, "  ", tail);
  const size_t width = columns - around;
  const size_t filled = static_cast<size_t>(static_cast<double>(width) * part);
  return absl::StrCat(what, "  [", std::string(filled, '='),
                      std::string(width - filled, ' '), "]  ", tail);
}

Progress::Progress(absl::string_view what, uint64_t total)
    : what_(what),
      total_(total),
      shown_(::isatty(STDERR_FILENO) == 1),
      begun_(std::chrono::steady_clock::now()),
      next_(begun_ + kRedraw) {}

Progress::~Progress() {
  if (shown_) draw(kClear);
}

void Progress::update(uint64_t done) {
  if (!shown_) return;
  const MonotonicTime now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kRedraw;
  const double seconds = std::chrono::duration<double>(now - begun_).count();
  draw(absl::StrCat(kClear, progress_line(what_, done, total_,
                                          static_cast<double>(done) / seconds,
                                          terminal_columns())));
}

}  // namespace vhost::ctl
