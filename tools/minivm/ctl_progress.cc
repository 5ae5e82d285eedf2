// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/ctl_progress.h"

#include <poll.h>
#include <unistd.h>

#include <cstdint>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/minivm/control.h"
#include "tools/minivm/request.h"

namespace vhost::minivm {
namespace {

using ctl::Json;

constexpr int kRedrawMs = 200;
// Cursor to the first column, the rest of the line erased.
constexpr absl::string_view kClear = "\r\033[K";

const Json* find(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

uint64_t number(const Json& object, const char* name) {
  const Json* const value = find(object, name);
  const auto* const out =
      value == nullptr ? nullptr : value->get_ptr<const uint64_t*>();
  return out == nullptr ? 0 : *out;
}

double time(const Json& object, const char* name) {
  const Json* const value = find(object, name);
  const auto* const out =
      value == nullptr ? nullptr : value->get_ptr<const double*>();
  return out == nullptr ? 0 : *out;
}

// Of all who write.
uint64_t dirty_rate(const Json& migration) {
  const Json* const providers = find(migration, "dirty_rate");
  uint64_t out = 0;
  if (providers == nullptr || !providers->is_object()) return out;
  for (const auto& [name, rate] : providers->items()) {
    if (const auto* const one = rate.get_ptr<const uint64_t*>()) out += *one;
  }
  return out;
}

void draw(absl::string_view text) {
  // A line that cannot be drawn is no reason to stop.
  ctl::write_full(FdRef(STDERR_FILENO),
                  std::as_bytes(std::span(text.data(), text.size())))
      .IgnoreError();
}

// Whether `answer` came within a moment.
bool is_there(FdRef answer) {
  pollfd wanted = {.fd = answer.get(), .events = POLLIN, .revents = 0};
  return ::poll(&wanted, 1, kRedrawMs) != 0;
}

}  // namespace

std::string progress_text(const Json& migration) {
  if (!migration.is_object()) return "";
  const Json* const phase = find(migration, "phase");
  if (phase == nullptr || !phase->is_string()) return "";
  std::string out = absl::StrFormat(
      "%-10s round %d  %s/s  dirty %s/s  left %s  predicted downtime %.0f ms",
      ctl::printable(*phase->get_ptr<const std::string*>()),
      number(migration, "rounds"),
      ctl::human_bytes(number(migration, "bandwidth")),
      ctl::human_bytes(dirty_rate(migration)),
      ctl::human_bytes(number(migration, "remaining")),
      time(migration, "predicted_downtime_ms"));
  const double downtime = time(migration, "downtime_ms");
  if (downtime > 0) absl::StrAppendFormat(&out, "  down %.0f ms", downtime);
  return out;
}

void show_progress(const std::string& socket, FdRef answer) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  const absl::StatusOr<UniqueFd> status = connect_control(socket);
  Request request;
  request.verb = Verb::kStatus;
  std::string last;
  while (status.ok() && !is_there(answer)) {
    if (!send_line(FdRef(*status), to_line(request)).ok()) break;
    const absl::StatusOr<std::string> line = receive_line(FdRef(*status));
    if (!line.ok()) break;
    const Json document =
        Json::parse(*line, nullptr, /*allow_exceptions=*/false);
    const Json* const migration =
        document.is_object() ? find(document, "migration") : nullptr;
    const std::string text =
        migration == nullptr ? "" : progress_text(*migration);
    if (text.empty() || text == last) continue;
    draw(terminal ? absl::StrCat(kClear, text) : absl::StrCat(text, "\n"));
    last = text;
  }
  if (terminal && !last.empty()) draw(kClear);
}

}  // namespace vhost::minivm
