// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MACHINE_TREE_BYTES_H_
#define TESTS_MINIVM_MACHINE_TREE_BYTES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace vhost::minivm {

// A flattened device tree, written token by token, right or wrong.
class TreeBytes {
 public:
  TreeBytes& begin(absl::string_view name) {
    word(1);
    text(name);
    return *this;
  }
  TreeBytes& end() { return word(2); }
  TreeBytes& property(absl::string_view name,
                      const std::vector<uint8_t>& value) {
    word(3).word(static_cast<uint32_t>(value.size()));
    word(static_cast<uint32_t>(strings_.size()));
    strings_.append(name.data(), name.size());
    strings_.push_back(0);
    structure_.insert(structure_.end(), value.begin(), value.end());
    return pad();
  }
  TreeBytes& words(absl::string_view name,
                   const std::vector<uint32_t>& values) {
    std::vector<uint8_t> bytes;
    for (const uint32_t value : values) append(bytes, value);
    return property(name, bytes);
  }
  TreeBytes& string(absl::string_view name, absl::string_view value) {
    std::vector<uint8_t> bytes(value.begin(), value.end());
    bytes.push_back(0);
    return property(name, bytes);
  }
  TreeBytes& word(uint32_t value) {
    append(structure_, value);
    return *this;
  }

  // All of it; `finish`: with the token that ends it.
  std::vector<uint8_t> bytes(bool finish = true) const {
    constexpr uint32_t kHeader = 40;
    constexpr uint32_t kReserved = 16;
    std::vector<uint8_t> structure = structure_;
    if (finish) append(structure, 9);
    const auto size = static_cast<uint32_t>(structure.size());
    const auto strings = static_cast<uint32_t>(strings_.size());
    const uint32_t at = kHeader + kReserved;
    std::vector<uint8_t> out;
    for (const uint32_t value :
         {0xd00dfeedu, at + size + strings, at, at + size, kHeader, 17u, 16u,
          0u, strings, size}) {
      append(out, value);
    }
    out.resize(at);
    out.insert(out.end(), structure.begin(), structure.end());
    out.insert(out.end(), strings_.begin(), strings_.end());
    return out;
  }

 private:
  static void append(std::vector<uint8_t>& bytes, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
      bytes.push_back(static_cast<uint8_t>(value >> shift));
    }
  }
  TreeBytes& text(absl::string_view value) {
    structure_.insert(structure_.end(), value.begin(), value.end());
    structure_.push_back(0);
    return pad();
  }
  TreeBytes& pad() {
    while (structure_.size() % 4 != 0) structure_.push_back(0);
    return *this;
  }

  std::vector<uint8_t> structure_;
  std::string strings_;
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_MACHINE_TREE_BYTES_H_
