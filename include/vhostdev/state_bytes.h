// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_STATE_BYTES_H_
#define VHOSTDEV_STATE_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vhostdev/cxx20.h"

namespace vhost {

// The bytes of a saved state: integers, big-endian as in QEMU's streams, and
// strings, one behind the other, without names.  What they mean is agreed on by
// a version in front, which is the caller's.
class StateWriter {
 public:
  void u8(uint8_t value) { put(value, 1); }
  void u16(uint16_t value) { put(value, 2); }
  void u32(uint32_t value) { put(value, 4); }
  void u64(uint64_t value) { put(value, 8); }
  void boolean(bool value) { put(value ? 1 : 0, 1); }
  // 7 bits in a byte, lowest first; bit 7 says that another byte follows.
  void varint(uint64_t value);
  // Bytes, with their number (u32) in front; at most 2^32 - 1.
  void bytes(absl::string_view value);

  const std::string& out() const { return out_; }
  std::string take() { return std::move(out_); }

 private:
  void put(uint64_t value, unsigned size);

  std::string out_;
};

// Reads what a StateWriter wrote, whoever sent it.  The first thing that is
// wrong is kept, and everything read from then on is 0: read all of a state,
// then look at status().
class StateReader {
 public:
  // `in` outlives the reader.
  explicit StateReader(absl::string_view in) : in_(in) {}

  uint8_t u8() { return static_cast<uint8_t>(get(1)); }
  uint16_t u16() { return static_cast<uint16_t>(get(2)); }
  uint32_t u32() { return static_cast<uint32_t>(get(4)); }
  uint64_t u64() { return get(8); }
  // Only 0 and 1 are one.
  bool boolean();
  // In its shortest form.
  uint64_t varint();
  // At most `most` bytes; a view of the input.
  absl::string_view bytes(size_t most);
  // A number of things that follow (u32), each of `size` bytes at least: not
  // more than `most`, and not more than the rest of the input can hold.
  uint32_t count(uint32_t most, size_t size);

  // Refuses what was read last: `why` says what is wrong with it.
  void refuse(absl::string_view why);

  bool ok() const { return status_.ok(); }
  // OK, or kDataLoss: what is wrong, and at which byte.
  const absl::Status& status() const { return status_; }
  // The same, and that nothing is left.
  absl::Status finish();
  size_t left() const { return in_.size() - at_; }

 private:
  uint64_t get(unsigned size);

  const absl::string_view in_;
  size_t at_ = 0;
  absl::Status status_;
};

}  // namespace vhost

#endif  // VHOSTDEV_STATE_BYTES_H_
