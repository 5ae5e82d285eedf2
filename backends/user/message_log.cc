// SPDX-License-Identifier: Apache-2.0
#include "backends/user/message_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vhost::user {
namespace {

std::string name_of(const MessageLog::Record& record) {
  std::string out = record.on_backend_channel
                        ? backend_message_name(record.id)
                        : frontend_message_name(record.id);
  if (record.queue) absl::StrAppend(&out, " vq ", *record.queue);
  return out;
}

std::string line_of(const MessageLog::Record& record, Duration at) {
  std::string out =
      absl::StrCat(since_text(at), record.outgoing ? " -> " : " <- ",
                   name_of(record), " (", record.size, " bytes");
  if (record.value) absl::StrAppend(&out, ", 0x", absl::Hex(*record.value));
  if (record.fds != 0) absl::StrAppend(&out, ", ", record.fds, " fds");
  if (record.need_reply) absl::StrAppend(&out, ", need_reply");
  absl::StrAppend(&out, ")");
  if (record.took) {
    absl::StrAppend(&out, " after ", duration_text(*record.took));
  }
  return out;
}

}  // namespace

std::string describe(Request id, std::optional<uint32_t> queue) {
  std::string out = frontend_message_name(to_int(id));
  if (queue) absl::StrAppend(&out, " vq ", *queue);
  return out;
}

MessageLog::MessageLog(size_t kept) : ring_(std::min(kept, kMostKept)) {}

void MessageLog::begin(MonotonicTime now) {
  begun_ = now;
  count_ = 0;
}

void MessageLog::add(const Record& record, MonotonicTime now) {
  if (ring_.empty()) return;
  ring_[count_++ % ring_.size()] = {.record = record, .at = now - begun_};
}

std::vector<std::string> MessageLog::lines() const {
  std::vector<std::string> out;
  const uint64_t kept = std::min<uint64_t>(count_, ring_.size());
  out.reserve(kept);
  for (uint64_t i = count_ - kept; i < count_; ++i) {
    const Kept& entry = ring_[i % ring_.size()];
    out.push_back(line_of(entry.record, entry.at));
  }
  return out;
}

}  // namespace vhost::user
