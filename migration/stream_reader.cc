// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/byte_queue.h"
#include "migration/bytes.h"
#include "migration/stream_format.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Bytes read ahead at most, beyond the record that is waited for.
constexpr size_t kReadAhead = 64 << 10;

}  // namespace

class StreamReader::Impl {
 public:
  Impl(StreamDirection direction, const StreamLimits& limits)
      : direction_(direction), limits_(limits) {
    limits_.max_payload = std::min(limits_.max_payload, kHardMaxPayload);
  }

  std::span<std::byte> space() {
    if (!status_.ok() || external_left_ != 0) return {};
    drop_given();
    const size_t missing = bytes_missing();
    // After the end there is room for one byte too many.
    if (missing == 0) return {};
    // Nothing of what somebody else takes from the channel may be taken.
    if (may_pass()) return queue_.room(missing).first(missing);
    const size_t most = std::max(missing, kReadAhead);
    return queue_.room(most).first(most);
  }

  void filled(size_t bytes) { queue_.added(bytes); }

  absl::StatusOr<std::optional<StreamRecord>> next() {
    if (!status_.ok()) return status_;
    absl::StatusOr<std::optional<StreamRecord>> record = parse();
    if (!record.ok()) status_ = record.status();
    return record;
  }

  absl::Status finish() {
    if (!status_.ok()) return status_;
    drop_given();
    if (ended_ && queue_.size() == 0) return absl::OkStatus();
    if (ended_) return status_ = bytes_behind();
    std::string where;
    if (!header_) {
      where = "within its header";
    } else if (external_left_ != 0) {
      where = absl::StrCat("within record ", totals_.records() - 1);
    } else if (queue_.size() != 0) {
      where = absl::StrCat("within record ", totals_.records());
    } else if (totals_.records() != 0) {
      where = absl::StrCat("after record ", totals_.records() - 1);
    } else {
      where = "after its header";
    }
    return status_ = absl::DataLossError(
               absl::StrCat("the stream ends ", where, ", before its end"));
  }

  void pass_through(RecordType type, size_t head) {
    pass_through_[type] = std::min<size_t>(head, limits_.max_payload);
  }
  size_t external_left() const { return external_left_; }
  void external_moved(size_t bytes) {
    external_left_ -= std::min(bytes, external_left_);
  }

  const std::optional<StreamHeader>& header() const { return header_; }
  const StreamTotals& totals() const { return totals_; }
  uint64_t skipped() const { return skipped_; }
  bool ended() const { return ended_; }

 private:
  // Whether payloads may be left in the channel.
  bool may_pass() const {
    const bool hashed = header_ && header_->integrity == Integrity::kXxh3;
    return !hashed && !pass_through_.empty();
  }

  // Bytes of the record that are wanted before it is given, head included.
  size_t wanted(const RecordHead& head) const {
    const size_t whole = kRecordHeadSize + head.size;
    if (header_->integrity == Integrity::kXxh3) {
      return whole + kRecordTrailerSize;
    }
    const auto passed = pass_through_.find(head.type);
    if (passed == pass_through_.end()) return whole;
    return kRecordHeadSize + std::min<size_t>(head.size, passed->second);
  }

  // 0: next() has something to say.
  size_t bytes_missing() const {
    const size_t want = !header_ ? kStreamHeaderSize
                        : ended_ ? 1
                        : head_  ? wanted(*head_)
                                 : kRecordHeadSize;
    return want - std::min(want, queue_.size());
  }

  // The record that was given is no longer needed.
  void drop_given() {
    queue_.consume(given_);
    given_ = 0;
  }

  absl::Status bytes_behind() const {
    return absl::DataLossError(absl::StrCat("bytes after record ",
                                            totals_.records() - 1,
                                            ", the end of the stream"));
  }

  std::string where() const {
    std::string out = absl::StrCat("record ", totals_.records());
    if (head_) absl::StrAppend(&out, " (", to_string(head_->type), ")");
    return out;
  }

  absl::StatusOr<std::optional<StreamRecord>> parse() {
    if (external_left_ != 0) return std::nullopt;
    drop_given();
    for (;;) {
      if (bytes_missing() != 0) return std::nullopt;
      if (ended_) return bytes_behind();
      if (!header_) {
        VHOST_RETURN_IF_ERROR(read_header());
      } else if (!head_) {
        VHOST_RETURN_IF_ERROR(annotate(read_head(), where()));
      } else {
        const std::string place = where();
        absl::StatusOr<std::optional<StreamRecord>> record = read_record();
        if (!record.ok()) return annotate(record.status(), place);
        if (record->has_value()) return record;
      }
    }
  }

  absl::Status read_header() {
    const auto bytes = queue_.bytes().first<kStreamHeaderSize>();
    const absl::StatusOr<StreamHeader> header = decode_stream_header(bytes);
    if (!header.ok()) return header.status();
    if (header->direction != direction_) {
      return absl::DataLossError(
          direction_ == StreamDirection::kToDestination
              ? "the stream is a destination's, not a source's"
              : "the stream is a source's, not a destination's");
    }
    if (header->max_payload > limits_.max_payload) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the stream has payloads of up to ", header->max_payload,
                       " bytes, at most ", limits_.max_payload, " are taken"));
    }
    header_ = *header;
    totals_.begin(bytes);
    queue_.consume(bytes.size());
    return absl::OkStatus();
  }

  absl::Status read_head() {
    const absl::StatusOr<RecordHead> head =
        decode_record_head(queue_.bytes().first<kRecordHeadSize>());
    if (!head.ok()) return head.status();
    head_ = *head;
    if (head->sequence != totals_.records()) {
      return absl::DataLossError(absl::StrCat("has number ", head->sequence));
    }
    if ((head->flags & ~kRecordCritical) != 0) {
      return absl::UnimplementedError(
          absl::StrCat("flags 0x", absl::Hex(head->flags)));
    }
    if (head->size > header_->max_payload) {
      return absl::DataLossError(absl::StrCat(head->size, " bytes, at most ",
                                              header_->max_payload,
                                              " were announced"));
    }
    // The largest record is far from wrapping.
    const uint64_t whole =
        kRecordHeadSize + uint64_t{head->size} + kRecordTrailerSize;
    if (totals_.bytes() > limits_.max_bytes ||
        whole > limits_.max_bytes - totals_.bytes()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the stream is longer than ", limits_.max_bytes, " bytes"));
    }
    return check_type(*head);
  }

  absl::Status check_type(const RecordHead& head) const {
    const RecordRule* rule = find_record_rule(head.type);
    const bool critical = (head.flags & kRecordCritical) != 0;
    if (rule == nullptr) {
      if (critical) return absl::UnimplementedError("not known here");
      if (head.sequence != 0) return absl::OkStatus();
    } else if (!critical) {
      return absl::DataLossError("not marked as critical");
    } else if (!goes(*rule, direction_)) {
      return absl::DataLossError("does not go this way");
    } else if (rule->empty && head.size != 0) {
      return absl::DataLossError(
          absl::StrCat("has a payload of ", head.size, " bytes"));
    } else if (rule->totals && head.id != 0) {
      return absl::DataLossError(absl::StrCat("has id ", head.id));
    }
    const bool manifest = head.type == RecordType::kManifest ||
                          head.type == RecordType::kManifestAnswer;
    const bool first = manifest || head.type == RecordType::kAbort;
    if (head.sequence == 0 && !first) {
      return absl::DataLossError("comes before the manifest");
    }
    if (head.sequence != 0 && manifest) {
      return absl::DataLossError("comes a second time");
    }
    return absl::OkStatus();
  }

  // The whole record is there, or as much of it as is wanted.
  absl::StatusOr<std::optional<StreamRecord>> read_record() {
    const RecordHead head = *head_;
    const std::span<const std::byte> bytes = queue_.bytes();
    const bool hashed = header_->integrity == Integrity::kXxh3;
    const size_t want = wanted(head);
    const size_t trailer = hashed ? kRecordTrailerSize : 0;
    const std::span<const std::byte> payload =
        bytes.subspan(kRecordHeadSize, want - kRecordHeadSize - trailer);
    const uint64_t hash = hash_record(bytes.first<kRecordHeadSize>(), payload,
                                      header_->integrity);
    if (hashed && load_be<uint64_t>(bytes.subspan(want - trailer)) != hash) {
      return absl::DataLossError("damaged (payload)");
    }
    const RecordRule* rule = find_record_rule(head.type);
    if (rule != nullptr && rule->totals) {
      VHOST_RETURN_IF_ERROR(totals_.compare(payload));
    }
    totals_.add(hash, kRecordHeadSize + head.size + trailer);
    head_.reset();
    if (rule == nullptr) {
      ++skipped_;
      queue_.consume(want);
      return std::nullopt;
    }
    ended_ = head.type == RecordType::kEnd;
    given_ = want;
    external_left_ = head.size - payload.size();
    return StreamRecord{.type = head.type,
                        .id = head.id,
                        .sequence = head.sequence,
                        .payload = payload,
                        .external = external_left_};
  }

  const StreamDirection direction_;
  StreamLimits limits_;
  ByteQueue queue_;
  std::map<RecordType, size_t> pass_through_;  // Bytes that are not passed.
  absl::Status status_;
  std::optional<StreamHeader> header_;
  std::optional<RecordHead> head_;  // Of the record at the front.
  size_t given_ = 0;  // Bytes at the front that the last record points to.
  size_t external_left_ = 0;
  StreamTotals totals_;
  uint64_t skipped_ = 0;
  bool ended_ = false;
};

StreamReader::StreamReader(StreamDirection direction,
                           const StreamLimits& limits)
    : impl_(std::make_unique<Impl>(direction, limits)) {}
StreamReader::StreamReader(StreamReader&&) noexcept = default;
StreamReader& StreamReader::operator=(StreamReader&&) noexcept = default;
StreamReader::~StreamReader() = default;

std::span<std::byte> StreamReader::space() { return impl_->space(); }
void StreamReader::filled(size_t bytes) { impl_->filled(bytes); }

size_t StreamReader::feed(std::span<const std::byte> bytes) {
  const std::span<std::byte> room = space();
  const size_t size = std::min(room.size(), bytes.size());
  if (size != 0) std::memcpy(room.data(), bytes.data(), size);
  filled(size);
  return size;
}

absl::StatusOr<std::optional<StreamRecord>> StreamReader::next() {
  return impl_->next();
}
absl::Status StreamReader::finish() { return impl_->finish(); }

void StreamReader::pass_through(RecordType type, size_t head) {
  impl_->pass_through(type, head);
}
size_t StreamReader::external_left() const { return impl_->external_left(); }
void StreamReader::external_moved(size_t bytes) {
  impl_->external_moved(bytes);
}

const std::optional<StreamHeader>& StreamReader::header() const {
  return impl_->header();
}
bool StreamReader::ended() const { return impl_->ended(); }
uint64_t StreamReader::records() const { return impl_->totals().records(); }
uint64_t StreamReader::skipped() const { return impl_->skipped(); }
uint64_t StreamReader::bytes() const { return impl_->totals().bytes(); }

}  // namespace vhost
