// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_FIELDS_H_
#define MIGRATION_FIELDS_H_

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "migration/bytes.h"

// Fields with a tag, in the order of their tags.
//
//   fields = field*
//   field  = tag:be16 flags:be16 size:be32 value
//
// flags: bit 0, who does not know the tag refuses; others are 0.

namespace vhost {

// One value made of integers and bytes.
class FieldWriter {
 public:
  // Tags must not descend.
  template <std::unsigned_integral... T>
  void add(uint16_t tag, T... values) {
    std::vector<std::byte> value;
    (put(value, values), ...);
    add_bytes(tag, value);
  }
  void add_text(uint16_t tag, absl::string_view text) {
    add_bytes(tag, bytes_of(text));
  }
  void add_bytes(uint16_t tag, std::span<const std::byte> value);

  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

struct Field {
  uint16_t tag = 0;
  std::span<const std::byte> value;
};

class FieldReader {
 public:
  // Tags 1 to `known` are known; those in `repeated` may be there more than
  // once or not at all.
  FieldReader(std::span<const std::byte> bytes, uint16_t known,
              std::initializer_list<uint16_t> repeated)
      : taker_(bytes), known_(known), repeated_(repeated) {}

  // The next field that is known; empty after the last.
  // Errors: kDataLoss       cut off, out of order, or twice.
  //         kUnimplemented  an unknown field that is critical.
  absl::StatusOr<std::optional<Field>> next();

  // Whether there was one.
  bool has(uint16_t tag) const { return (seen_ >> tag & 1) != 0; }

 private:
  bool may_repeat(uint16_t tag) const;

  Taker taker_;
  uint16_t known_;
  std::vector<uint16_t> repeated_;
  uint16_t last_ = 0;
  uint64_t seen_ = 0;  // A bit for each known tag; there are less than 64.
};

// Whether a name may be in a message as it is: 1 to `most` printable ASCII
// characters.
bool is_name(absl::string_view text, size_t most);

// A sentence of somebody else, fit to be shown: `most` bytes of it at most, and
// what is not printable ASCII replaced.
std::string shown(absl::string_view text, size_t most);

}  // namespace vhost

#endif  // MIGRATION_FIELDS_H_
