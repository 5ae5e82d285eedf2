// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/byte_queue.h"
#include "migration/bytes.h"
#include "migration/stream_format.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/status.h"

namespace vhost {

class StreamWriter::Impl {
 public:
  explicit Impl(const Options& options) : options_(options) {
    options_.max_payload =
        std::clamp(options_.max_payload, kHardMinPayload, kHardMaxPayload);
    const HeaderBytes header =
        encode_stream_header({.major = kStreamMajor,
                              .minor = kStreamMinor,
                              .direction = options_.direction,
                              .integrity = options_.integrity,
                              .required_features = options_.required_features,
                              .optional_features = options_.optional_features,
                              .max_payload = options_.max_payload});
    append(header);
    totals_.begin(header);
  }

  absl::StatusOr<std::span<std::byte>> open(RecordType type, uint32_t id,
                                            size_t most) {
    VHOST_RETURN_IF_ERROR(check(type, most));
    const size_t whole = kRecordHeadSize + most + kRecordTrailerSize;
    open_ = Open{type, id, queue_.room(whole).first(whole)};
    return open_->payload();
  }

  absl::Status close(size_t size) {
    if (!open_) return absl::FailedPreconditionError("no record is open");
    if (size > open_->payload().size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(to_string(open_->type), " of ", size, " bytes in a room",
                       " for ", open_->payload().size()));
    }
    const std::span<std::byte> room = open_->room;
    const RecordHeadBytes head = next_head(open_->type, open_->id, size);
    std::memcpy(room.data(), head.data(), head.size());
    const std::span<const std::byte> payload =
        room.subspan(kRecordHeadSize, size);
    const uint64_t hash = hash_record(head, payload, options_.integrity);
    size_t whole = kRecordHeadSize + size;
    if (options_.integrity == Integrity::kXxh3) {
      store_be(room.subspan(whole), hash);
      whole += kRecordTrailerSize;
    }
    queue_.added(whole);
    totals_.add(hash, whole);
    ended_ = open_->type == RecordType::kEnd;
    open_.reset();
    return absl::OkStatus();
  }

  void drop() { open_.reset(); }

  absl::Status begin_external(RecordType type, uint32_t id,
                              std::span<const std::byte> begin, size_t size) {
    if (options_.integrity != Integrity::kTransport) {
      return absl::FailedPreconditionError("the stream hashes its payloads");
    }
    // Not the sum: it might wrap.
    VHOST_RETURN_IF_ERROR(check(type, size));
    VHOST_RETURN_IF_ERROR(check(type, begin.size() + size));
    const RecordHeadBytes head = next_head(type, id, begin.size() + size);
    append(head);
    append(begin);
    totals_.add(hash_record(head, {}, options_.integrity),
                head.size() + begin.size() + size);
    external_left_ = size;
    return absl::OkStatus();
  }

  absl::Status append_totals(RecordType type) {
    const auto totals = totals_.encode();
    const absl::StatusOr<std::span<std::byte>> room =
        open(type, 0, totals.size());
    if (!room.ok()) return room.status();
    std::memcpy(room->data(), totals.data(), totals.size());
    return close(totals.size());
  }

  std::span<const std::byte> pending() const { return queue_.bytes(); }
  void consume(size_t bytes) { queue_.consume(bytes); }
  size_t external_left() const { return external_left_; }
  void external_moved(size_t bytes) {
    external_left_ -= std::min(bytes, external_left_);
  }
  void give_up_external() {
    if (external_left_ == 0) return;
    std::memset(queue_.room(external_left_).data(), 0, external_left_);
    queue_.added(external_left_);
    external_left_ = 0;
  }
  const Options& options() const { return options_; }
  const StreamTotals& totals() const { return totals_; }
  bool ended() const { return ended_; }

 private:
  struct Open {
    RecordType type{};
    uint32_t id = 0;
    std::span<std::byte> room;  // Of the queue: head, payload, trailer.

    std::span<std::byte> payload() const {
      return room.subspan(kRecordHeadSize,
                          room.size() - kRecordHeadSize - kRecordTrailerSize);
    }
  };

  absl::Status check(RecordType type, size_t size) const {
    if (ended_) return absl::FailedPreconditionError("the stream has ended");
    if (open_) {
      return absl::FailedPreconditionError(
          absl::StrCat(to_string(open_->type), " is open"));
    }
    if (external_left_ != 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          external_left_, " bytes of a payload are still to be moved"));
    }
    const RecordRule* rule = find_record_rule(type);
    if (rule == nullptr || !goes(*rule, options_.direction)) {
      return absl::InvalidArgumentError(
          absl::StrCat(to_string(type), " does not go this way"));
    }
    if (size > options_.max_payload || (rule->empty && size != 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(to_string(type), " of ", size, " bytes, at most ",
                       rule->empty ? 0 : options_.max_payload));
    }
    return absl::OkStatus();
  }

  RecordHeadBytes next_head(RecordType type, uint32_t id, size_t size) const {
    return encode_record_head({.type = type,
                               .flags = kRecordCritical,
                               .id = id,
                               .sequence = totals_.records(),
                               .size = static_cast<uint32_t>(size)});
  }

  void append(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    std::memcpy(queue_.room(bytes.size()).data(), bytes.data(), bytes.size());
    queue_.added(bytes.size());
  }

  Options options_;
  ByteQueue queue_;
  StreamTotals totals_;
  std::optional<Open> open_;
  size_t external_left_ = 0;
  bool ended_ = false;
};

StreamWriter::StreamWriter(const Options& options)
    : impl_(std::make_unique<Impl>(options)) {}
StreamWriter::StreamWriter(Integrity integrity)
    : StreamWriter(Options{.integrity = integrity}) {}
StreamWriter::StreamWriter(StreamWriter&&) noexcept = default;
StreamWriter& StreamWriter::operator=(StreamWriter&&) noexcept = default;
StreamWriter::~StreamWriter() = default;

absl::Status StreamWriter::record(RecordType type, uint32_t id,
                                  std::span<const std::byte> payload) {
  return record(type, id, payload, {});
}

absl::Status StreamWriter::record(RecordType type, uint32_t id,
                                  std::span<const std::byte> head,
                                  std::span<const std::byte> body) {
  const absl::StatusOr<std::span<std::byte>> room =
      open_record(type, id, head.size() + body.size());
  if (!room.ok()) return room.status();
  if (!head.empty()) std::memcpy(room->data(), head.data(), head.size());
  if (!body.empty()) {
    std::memcpy(room->data() + head.size(), body.data(), body.size());
  }
  return close_record(room->size());
}

absl::StatusOr<std::span<std::byte>> StreamWriter::open_record(RecordType type,
                                                               uint32_t id,
                                                               size_t most) {
  const RecordRule* rule = find_record_rule(type);
  if (rule != nullptr && rule->totals) {
    return absl::InvalidArgumentError(
        absl::StrCat(to_string(type), " says what it says itself"));
  }
  return impl_->open(type, id, most);
}
absl::Status StreamWriter::close_record(size_t size) {
  return impl_->close(size);
}
void StreamWriter::drop_record() { impl_->drop(); }

absl::Status StreamWriter::begin_external(RecordType type, uint32_t id,
                                          std::span<const std::byte> head,
                                          size_t size) {
  return impl_->begin_external(type, id, head, size);
}
size_t StreamWriter::external_left() const { return impl_->external_left(); }
void StreamWriter::external_moved(size_t bytes) {
  impl_->external_moved(bytes);
}
void StreamWriter::give_up_external() { impl_->give_up_external(); }

absl::Status StreamWriter::state_end() {
  return impl_->append_totals(RecordType::kStateEnd);
}
absl::Status StreamWriter::end() {
  return impl_->append_totals(RecordType::kEnd);
}

std::span<const std::byte> StreamWriter::pending() const {
  return impl_->pending();
}
void StreamWriter::consume(size_t bytes) { impl_->consume(bytes); }

Integrity StreamWriter::integrity() const { return impl_->options().integrity; }
uint32_t StreamWriter::max_payload() const {
  return impl_->options().max_payload;
}
bool StreamWriter::ended() const { return impl_->ended(); }
uint64_t StreamWriter::records() const { return impl_->totals().records(); }
uint64_t StreamWriter::bytes() const { return impl_->totals().bytes(); }

}  // namespace vhost
