// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/values.h"

#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace vhost::ctl {
namespace {

// absl::SimpleAtoi also takes signs and blanks.
bool parse_digits(absl::string_view text, uint64_t& out) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return false;
  }
  return absl::SimpleAtoi(text, &out);
}

unsigned suffix_shift(char suffix) {
  switch (suffix) {
    case 'K':
      return 10;
    case 'M':
      return 20;
    case 'G':
      return 30;
    case 'T':
      return 40;
    default:
      return 0;
  }
}

}  // namespace

absl::StatusOr<uint64_t> parse_number(absl::string_view text, uint64_t min,
                                      uint64_t max) {
  uint64_t value = 0;
  if (!parse_digits(text, value) || value < min || value > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not a number from ", min, " to ", max));
  }
  return value;
}

absl::StatusOr<uint64_t> parse_bytes(absl::string_view text) {
  const unsigned shift = text.empty() ? 0 : suffix_shift(text.back());
  const absl::string_view digits =
      shift == 0 ? text : text.substr(0, text.size() - 1);
  uint64_t value = 0;
  if (!parse_digits(digits, value) ||
      value > std::numeric_limits<uint64_t>::max() >> shift) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" is not a number of bytes such as 4096 or 64M"));
  }
  return value << shift;
}

absl::StatusOr<Duration> parse_seconds(absl::string_view text) {
  constexpr double kDay = 86400;
  double seconds = 0;
  // The comparison also refuses "nan"; less than a nanosecond would be none.
  if (!absl::SimpleAtod(text, &seconds) ||
      !(seconds >= 1e-9 && seconds <= kDay)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", text, "\" is not a number of seconds above 0, a day at most"));
  }
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(seconds));
}

}  // namespace vhost::ctl
