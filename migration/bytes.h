// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_BYTES_H_
#define MIGRATION_BYTES_H_

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Big-endian integers in bytes, as all of a migration stream has them.

namespace vhost {

// `out` has room for a T.
template <std::unsigned_integral T>
void store_be(std::span<std::byte> out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)) & 0xff);
  }
}

// `in` has a T.
template <std::unsigned_integral T>
T load_be(std::span<const std::byte> in) {
  uint64_t out = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    out = out << 8 | std::to_integer<uint64_t>(in[i]);
  }
  return static_cast<T>(out);
}

template <std::unsigned_integral T>
void put(std::vector<std::byte>& out, T value) {
  out.resize(out.size() + sizeof(T));
  store_be(std::span(out).last(sizeof(T)), value);
}

inline void put(std::vector<std::byte>& out, std::span<const std::byte> bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

inline std::span<const std::byte> bytes_of(absl::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Takes integers and bytes off the front.  What is not there is 0 or empty, and
// complete() is false from then on: looked at once, after all was taken.
class Taker {
 public:
  explicit Taker(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <std::unsigned_integral T>
  T take() {
    const std::span<const std::byte> bytes = take(sizeof(T));
    return bytes.size() == sizeof(T) ? load_be<T>(bytes) : T{0};
  }
  std::span<const std::byte> take(size_t size) {
    if (size > bytes_.size()) {
      complete_ = false;
      bytes_ = {};
      return {};
    }
    const std::span<const std::byte> out = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return out;
  }
  std::span<const std::byte> rest() { return take(left()); }
  size_t left() const { return bytes_.size(); }

  // All that was taken was there.
  bool complete() const { return complete_; }
  // And nothing is left.
  bool exact() const { return complete_ && bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  bool complete_ = true;
};

}  // namespace vhost

#endif  // MIGRATION_BYTES_H_
