// SPDX-License-Identifier: Apache-2.0
#include "backends/user/message_log.h"

#include "absl/strings/str_cat.h"

namespace vhost::user {
namespace {

std::string line_of(const MessageLog::Record& record) {
  std::string out = absl::StrCat(record.outgoing ? "-> " : "<- ",
                                 describe(record.id, record.queue), " (",
                                 record.size, " bytes");
  if (record.value) absl::StrAppend(&out, ", 0x", absl::Hex(*record.value));
  if (record.fds != 0) absl::StrAppend(&out, ", ", record.fds, " fds");
  if (record.need_reply) absl::StrAppend(&out, ", need_reply");
  return absl::StrCat(out, ")");
}

}  // namespace

std::string describe(Request id, std::optional<uint32_t> queue) {
  std::string out = frontend_message_name(to_int(id));
  if (queue) absl::StrAppend(&out, " vq ", *queue);
  return out;
}

std::vector<std::string> MessageLog::lines() const {
  std::vector<std::string> out;
  for (uint64_t i = count_ > kKept ? count_ - kKept : 0; i < count_; ++i) {
    out.push_back(line_of(ring_[i % kKept]));
  }
  return out;
}

}  // namespace vhost::user
