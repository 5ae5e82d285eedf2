// SPDX-License-Identifier: Apache-2.0
#include "migration/fields.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

constexpr uint16_t kCritical = 1;

bool printable(char c) {
  return absl::ascii_isprint(static_cast<unsigned char>(c));
}

}  // namespace

void FieldWriter::add_bytes(uint16_t tag, std::span<const std::byte> value) {
  put(bytes_, tag);
  put(bytes_, kCritical);
  put(bytes_, static_cast<uint32_t>(value.size()));
  put(bytes_, value);
}

bool FieldReader::may_repeat(uint16_t tag) const {
  return std::find(repeated_.begin(), repeated_.end(), tag) != repeated_.end();
}

absl::StatusOr<std::optional<Field>> FieldReader::next() {
  while (taker_.left() != 0) {
    Field out;
    out.tag = taker_.take<uint16_t>();
    const auto flags = taker_.take<uint16_t>();
    const auto size = taker_.take<uint32_t>();
    out.value = taker_.take(size);
    if (!taker_.complete()) {
      return absl::DataLossError(absl::StrCat("field ", out.tag, " cut off"));
    }
    if ((flags & ~kCritical) != 0) {
      return absl::UnimplementedError(
          absl::StrCat("field ", out.tag, ": flags 0x", absl::Hex(flags)));
    }
    if (out.tag < last_ || out.tag == 0) {
      return absl::DataLossError(
          absl::StrCat("field ", out.tag, " after field ", last_));
    }
    const bool again = out.tag == last_;
    last_ = out.tag;
    if (out.tag > known_) {
      if ((flags & kCritical) == 0) continue;
      return absl::UnimplementedError(absl::StrCat("unknown field ", out.tag));
    }
    if (again && !may_repeat(out.tag)) {
      return absl::DataLossError(absl::StrCat("field ", out.tag, " twice"));
    }
    if ((flags & kCritical) == 0) {
      return absl::DataLossError(
          absl::StrCat("field ", out.tag, " not marked as critical"));
    }
    seen_ |= uint64_t{1} << out.tag;
    return out;
  }
  return std::nullopt;
}

bool is_name(absl::string_view text, size_t most) {
  return !text.empty() && text.size() <= most &&
         std::all_of(text.begin(), text.end(), printable);
}

std::string shown(absl::string_view text, size_t most) {
  std::string out(text.substr(0, most));
  std::replace_if(
      out.begin(), out.end(), [](char c) { return !printable(c); }, '?');
  return out;
}

}  // namespace vhost
