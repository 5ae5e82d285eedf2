// SPDX-License-Identifier: Apache-2.0
#include "backends/user/backend_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::user {
namespace {

constexpr size_t kInputSize = 4096;
constexpr size_t kMaxFdGroups = 8;
// No more requests are read while this much of the answers is unread.
constexpr size_t kMaxUnreadAnswers = size_t{16} * 1024;

constexpr size_t kAnswerSize = sizeof(wire::Header) + sizeof(uint64_t);

}  // namespace

BackendChannel::BackendChannel(uint64_t protocol_features, Host* host,
                               MessageRecorder* recorder)
    : protocol_features_(protocol_features),
      host_(host),
      recorder_(recorder),
      in_(kInputSize) {}

std::span<std::byte> BackendChannel::input_space() {
  if (!status_.ok() || !host_->takes_requests()) return {};
  if (out_.size() - out_head_ >= kMaxUnreadAnswers) return {};
  if (in_head_ != 0) {
    std::memmove(in_.data(), in_.data() + in_head_, in_tail_ - in_head_);
    in_tail_ -= in_head_;
    in_head_ = 0;
  }
  return std::span(in_).subspan(in_tail_);
}

void BackendChannel::received(size_t bytes, std::vector<UniqueFd> fds) {
  if (!status_.ok()) return;  // `fds` are closed.
  const uint64_t begin = in_position_ + (in_tail_ - in_head_);
  in_tail_ += bytes;
  if (fds.empty()) return;
  if ((protocol_features_ & bit_mask(kProtocolBackendSendFd)) == 0) {
    fail(absl::DataLossError("descriptors without BACKEND_SEND_FD"));
  } else if (in_fds_.size() >= kMaxFdGroups) {
    fail(absl::DataLossError("descriptors that belong to no message"));
  } else {
    in_fds_.push_back({begin, begin + bytes, std::move(fds)});
  }
}

void BackendChannel::fail(const absl::Status& why) {
  if (!status_.ok()) return;
  status_ = annotate(why, "back-end channel");
  in_fds_.clear();
  answers_.clear();
  out_.clear();
  out_head_ = 0;
}

absl::Status BackendChannel::serve(MonotonicTime now) {
  while (status_.ok()) {
    const absl::StatusOr<bool> more = serve_one(now);
    if (!more.ok()) {
      fail(more.status());
    } else if (!*more) {
      break;
    }
  }
  return status_;
}

absl::StatusOr<const MessageSpec*> BackendChannel::check(
    const wire::Header& header) const {
  const MessageSpec* spec = find_backend_message(header.request);
  if (spec == nullptr) {
    return absl::DataLossError(
        absl::StrCat("unknown request ", header.request));
  }
  VHOST_RETURN_IF_ERROR(
      annotate(check_request_flags(header.flags), spec->name));
  if (!spec->request.has(header.size)) {
    return absl::DataLossError(absl::StrCat(spec->name, " has ", header.size,
                                            " bytes, not ", spec->request.min));
  }
  return spec;
}

// False if no complete request is left.
absl::StatusOr<bool> BackendChannel::serve_one(MonotonicTime now) {
  const auto input =
      std::span<const std::byte>(in_).subspan(in_head_, in_tail_ - in_head_);
  const auto header = wire::read_prefix<wire::Header>(input);
  if (!header) return false;
  const absl::StatusOr<const MessageSpec*> spec = check(*header);
  if (!spec.ok()) return spec.status();
  const size_t whole = sizeof(wire::Header) + header->size;
  if (input.size() < whole) return false;

  const auto id = static_cast<BackendRequest>(header->request);
  const auto payload = input.subspan(sizeof(wire::Header), header->size);
  std::vector<UniqueFd> fds;
  VHOST_RETURN_IF_ERROR(
      claim_fds(id, payload, in_position_, in_position_ + whole, fds));
  in_head_ += whole;
  in_position_ += whole;

  const bool asked = (header->flags & wire::kNeedReplyFlag) != 0;
  record_request(**spec, asked, payload, fds.size(), now);
  UniqueFd answer_fd;
  const absl::Status done =
      allowed(**spec)
          ? dispatch(id, payload, std::move(fds), answer_fd)
          : absl::UnimplementedError("its feature was not negotiated");
  if (asked || (*spec)->rule == ReplyRule::kAlways) {
    answer(header->request, done.ok() ? 0 : 1, std::move(answer_fd), now);
  }
  return true;
}

// See Connection::claim_fds.
absl::Status BackendChannel::claim_fds(BackendRequest id,
                                       std::span<const std::byte> payload,
                                       uint64_t begin, uint64_t end,
                                       std::vector<UniqueFd>& out) {
  const uint32_t due = backend_request_fds(id, payload);
  const bool here = !in_fds_.empty() && in_fds_.front().begin <= begin &&
                    begin < in_fds_.front().end;
  if (here && due != 0) {
    out = std::move(in_fds_.front().fds);
    in_fds_.pop_front();
  }
  size_t surplus = 0;
  while (!in_fds_.empty() && in_fds_.front().end <= end) {
    surplus += in_fds_.front().fds.size();
    in_fds_.pop_front();
  }
  if (surplus == 0 && out.size() == due) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(spec_of(id).name, " carries ",
                                          out.size() + surplus,
                                          " descriptors, not ", due));
}

bool BackendChannel::allowed(const MessageSpec& spec) const {
  const bool protocol =
      spec.protocol_feature == kNoFeature ||
      (protocol_features_ & bit_mask(spec.protocol_feature)) != 0;
  return protocol && (spec.virtio_feature == kNoFeature ||
                      features_.has(spec.virtio_feature));
}

void BackendChannel::record_request(const MessageSpec& spec, bool need_reply,
                                    std::span<const std::byte> payload,
                                    size_t fds, MonotonicTime now) {
  MessageLog::Record record;
  record.need_reply = need_reply;
  record.on_backend_channel = true;
  record.id = spec.id;
  record.size = static_cast<uint32_t>(payload.size());
  record.fds = static_cast<uint32_t>(fds);
  // An index, or one in the low bits of a u64.
  if (spec.names_queue) record.queue = wire::read_prefix<uint32_t>(payload);
  if (spec.request_fds.max != 0 && record.queue) {
    *record.queue &= static_cast<uint32_t>(wire::kVringIndexMask);
  }
  recorder_->log.add(record, now);
}

void BackendChannel::answer(uint32_t request, uint64_t value, UniqueFd fd,
                            MonotonicTime now) {
  recorder_->log.add({.outgoing = true,
                      .on_backend_channel = true,
                      .id = request,
                      .size = sizeof(value),
                      .fds = fd.valid() ? 1u : 0u,
                      .value = value},
                     now);
  const wire::Header header = {
      .request = request, .flags = kReplyFlags, .size = sizeof(value)};
  const auto head = wire::bytes_of(header);
  const auto body = wire::bytes_of(value);
  out_.insert(out_.end(), head.begin(), head.end());
  out_.insert(out_.end(), body.begin(), body.end());
  answers_.push_back({kAnswerSize, std::move(fd)});
  if (answers_.size() == 1) front_fd_ = answers_.front().fd.get();
}

BackendChannel::Segment BackendChannel::next_segment() const {
  if (answers_.empty()) return {};
  size_t size = answers_.front().size;
  for (size_t i = 1; i < answers_.size() && !answers_[i].fd.valid(); ++i) {
    size += answers_[i].size;
  }
  Segment out;
  out.bytes = std::span(out_).subspan(out_head_, size);
  if (!begun_ && front_fd_ >= 0) out.fds = std::span(&front_fd_, 1);
  return out;
}

void BackendChannel::sent(size_t bytes) {
  out_head_ += bytes;
  while (bytes != 0 && !answers_.empty()) {
    const size_t now = std::min(bytes, answers_.front().size);
    begun_ = true;
    answers_.front().fd.reset();  // The peer has it.
    answers_.front().size -= now;
    bytes -= now;
    if (answers_.front().size != 0) break;
    answers_.pop_front();
    begun_ = false;
    front_fd_ = answers_.empty() ? -1 : answers_.front().fd.get();
  }
  if (out_head_ == out_.size() || out_head_ >= kMaxUnreadAnswers) {
    out_.erase(out_.begin(),
               out_.begin() + static_cast<std::ptrdiff_t>(out_head_));
    out_head_ = 0;
  }
}

}  // namespace vhost::user
