// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_RECORDING_TEXT_H_
#define TOOLS_VHOSTCTL_RECORDING_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/recording.h"

// Recorded events in words.  Whatever a message holds, there are some.
namespace vhost::ctl {

// The header of a recorded message.
struct MessageHead {
  uint32_t request = 0;
  uint32_t flags = 0;
  uint32_t size = 0;

  bool is_reply() const { return (flags & 4) != 0; }
  bool needs_reply() const { return (flags & 8) != 0; }
};
MessageHead head_of(const Event& event);

// "SET_VRING_NUM"; of an unknown one "message 99".
std::string message_name(const Event& event);

// One field of a message.
struct MessageField {
  enum class Show : uint8_t { kDecimal, kHex, kText };
  std::string name;
  Show show = Show::kDecimal;
  uint64_t value = 0;
  std::string text = {};
};

// What the payload of a recorded message says.  Empty if it has none, or one
// that is not of its message's size.
std::vector<MessageField> message_fields(const Event& event);

absl::string_view fd_kind_name(FdKind kind);

// A line, without its end: "0.000123 #1 -> SET_VRING_NUM need_reply: index 0,
// num 256".
std::string event_text(const Event& event);
Json event_json(const Event& event);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_RECORDING_TEXT_H_
