// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/state_bytes.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace vhost {

void StateWriter::put(uint64_t value, unsigned size) {
  for (unsigned shift = size * 8; shift != 0; shift -= 8) {
    out_.push_back(static_cast<char>(value >> (shift - 8)));
  }
}

void StateWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) put((value & 0x7f) | 0x80, 1);
  put(value, 1);
}

void StateWriter::bytes(absl::string_view value) {
  u32(static_cast<uint32_t>(value.size()));
  out_.append(value.data(), value.size());
}

void StateReader::refuse(absl::string_view why) {
  if (!status_.ok()) return;
  status_ = absl::DataLossError(absl::StrCat(why, " at byte ", at_));
}

uint64_t StateReader::get(unsigned size) {
  if (ok() && left() < size) {
    refuse(absl::StrCat("ends with ", left(), " bytes of ", size));
  }
  if (!ok()) return 0;
  uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) {
    value = value << 8 | static_cast<uint8_t>(in_[at_++]);
  }
  return value;
}

bool StateReader::boolean() {
  const uint8_t value = u8();
  if (value > 1) refuse(absl::StrCat("neither yes nor no: ", value));
  return ok() && value == 1;
}

uint64_t StateReader::varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const uint64_t piece = u8();
    const uint64_t bits = piece & 0x7f;
    if (!ok()) return 0;
    // The last of ten bytes has one bit left; a zero at the end says nothing.
    if ((shift == 63 && piece > 1) || (piece == 0 && shift != 0)) break;
    value |= bits << shift;
    if ((piece & 0x80) == 0) return value;
  }
  refuse("no number of up to 64 bits in its shortest form");
  return 0;
}

absl::string_view StateReader::bytes(size_t most) {
  const size_t size = u32();
  if (size > most || size > left()) {
    refuse(absl::StrCat(size, " bytes, of at most ", std::min(most, left())));
  }
  if (!ok()) return {};
  at_ += size;
  return in_.substr(at_ - size, size);
}

uint32_t StateReader::count(uint32_t most, size_t size) {
  const uint32_t number = u32();
  if (number > most || number > left() / std::max<size_t>(size, 1)) {
    refuse(absl::StrCat(number, " of something, of which at most ", most,
                        " can be, and ", left(), " bytes are left"));
  }
  return ok() ? number : 0;
}

absl::Status StateReader::finish() {
  if (ok() && left() != 0) refuse(absl::StrCat(left(), " bytes too many"));
  return status_;
}

}  // namespace vhost
