// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/recording_text.h"

#include <algorithm>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace vhost::ctl {
namespace {

constexpr size_t kShownBytes = 32;

std::string hex_of(std::span<const std::byte> bytes) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

// Not all of many bytes.
std::string shown_hex(std::span<const std::byte> bytes) {
  if (bytes.size() <= kShownBytes) return hex_of(bytes);
  return absl::StrCat(hex_of(bytes.first(kShownBytes)), "... (", bytes.size(),
                      " bytes)");
}

std::string field_text(const MessageField& field) {
  switch (field.show) {
    case MessageField::Show::kDecimal:
      return absl::StrCat(field.name, " ", field.value);
    case MessageField::Show::kHex:
      return absl::StrCat(field.name, " 0x", absl::Hex(field.value));
    case MessageField::Show::kText:
      break;
  }
  return absl::StrCat(field.name, " ", field.text);
}

std::string fd_text(const RecordedFd& fd) {
  std::string out(fd_kind_name(fd.kind));
  if (fd.size != 0) absl::StrAppend(&out, " ", fd.size);
  return out;
}

std::string message_text(const Event& event) {
  const MessageHead head = head_of(event);
  std::string out = message_name(event);
  if (head.is_reply()) absl::StrAppend(&out, " reply");
  if (head.needs_reply()) absl::StrAppend(&out, " need_reply");
  const std::vector<MessageField> fields = message_fields(event);
  const auto payload =
      std::span<const std::byte>(event.bytes)
          .subspan(std::min(event.bytes.size(), kMessageHeaderSize));
  if (!fields.empty()) {
    absl::StrAppend(
        &out, ": ",
        absl::StrJoin(fields, ", ", [](std::string* to, const MessageField& f) {
          absl::StrAppend(to, field_text(f));
        }));
  } else if (!payload.empty()) {
    absl::StrAppend(&out, ": ", shown_hex(payload));
  }
  if (event.fds.empty()) return out;
  return absl::StrCat(out, " [",
                      absl::StrJoin(event.fds, ", ",
                                    [](std::string* to, const RecordedFd& fd) {
                                      absl::StrAppend(to, fd_text(fd));
                                    }),
                      "]");
}

absl::string_view channel_name(EventChannel channel) {
  return channel == EventChannel::kMain ? "main" : "back-end";
}

absl::string_view kind_name(EventKind kind) {
  switch (kind) {
    case EventKind::kBegin:
      return "begin";
    case EventKind::kMessage:
      return "message";
    case EventKind::kGarbage:
      return "garbage";
    case EventKind::kEnd:
      break;
  }
  return "end";
}

Json fields_json(const Event& event) {
  Json out = Json::object();
  Json regions = Json::array();
  for (const MessageField& field : message_fields(event)) {
    if (field.name == "region") {
      regions.push_back(field.text);
    } else if (field.show == MessageField::Show::kText) {
      out[field.name] = field.text;
    } else {
      out[field.name] = field.value;
    }
  }
  if (!regions.empty()) out["region"] = std::move(regions);
  return out;
}

}  // namespace

absl::string_view fd_kind_name(FdKind kind) {
  switch (kind) {
    case FdKind::kMemfd:
      return "memfd";
    case FdKind::kFile:
      return "file";
    case FdKind::kEventfd:
      return "eventfd";
    case FdKind::kSocket:
      return "socket";
    case FdKind::kPipe:
      return "pipe";
    case FdKind::kUserfaultfd:
      return "userfaultfd";
    case FdKind::kOther:
      break;
  }
  return "other";
}

std::string event_text(const Event& event) {
  const std::string where = absl::StrFormat(
      "%.6f #%u ", static_cast<double>(event.time) / 1e9, event.connection);
  const char* const arrow =
      event.direction == EventDirection::kToBackend ? "-> " : "<- ";
  const std::string which =
      event.channel == EventChannel::kMain ? "connection" : "back-end channel";
  switch (event.kind) {
    case EventKind::kBegin:
      return absl::StrCat(where, which, " begins");
    case EventKind::kMessage:
      return absl::StrCat(where, arrow, message_text(event));
    case EventKind::kGarbage:
      return absl::StrCat(where, arrow, "garbage (", printable(event.text),
                          "): ", shown_hex(event.bytes));
    case EventKind::kEnd:
      break;
  }
  return absl::StrCat(where, which, " ends: ", printable(event.text));
}

Json event_json(const Event& event) {
  Json out = Json::object();
  out["event"] = std::string(kind_name(event.kind));
  out["time_ns"] = event.time;
  out["connection"] = event.connection;
  out["channel"] = std::string(channel_name(event.channel));
  if (!event.text.empty()) out["text"] = event.text;
  const bool has_bytes =
      event.kind == EventKind::kMessage || event.kind == EventKind::kGarbage;
  if (!has_bytes) return out;
  out["direction"] = event.direction == EventDirection::kToBackend
                         ? "to back-end"
                         : "to front-end";
  if (event.kind == EventKind::kMessage) {
    const MessageHead head = head_of(event);
    out["message"] = message_name(event);
    out["request"] = head.request;
    out["flags"] = head.flags;
    out["reply"] = head.is_reply();
    out["need_reply"] = head.needs_reply();
    out["size"] = head.size;
    out["fields"] = fields_json(event);
  }
  Json fds = Json::array();
  for (const RecordedFd& fd : event.fds) {
    fds.push_back(
        {{"kind", std::string(fd_kind_name(fd.kind))}, {"size", fd.size}});
  }
  out["fds"] = std::move(fds);
  out["bytes"] = hex_of(event.bytes);
  return out;
}

}  // namespace vhost::ctl
