// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_BYTE_QUEUE_H_
#define MIGRATION_BYTE_QUEUE_H_

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

namespace vhost {

// Bytes that are added at the end and consumed at the front, always in one
// piece.  Each byte is moved a bounded number of times, on average.
class ByteQueue {
 public:
  std::span<const std::byte> bytes() const {
    return {buffer_.get() + head_, tail_ - head_};
  }
  size_t size() const { return tail_ - head_; }

  // Where to add: at least `least` bytes.  Valid until the next call.
  std::span<std::byte> room(size_t least) {
    if (head_ == tail_) head_ = tail_ = 0;
    if (capacity_ - tail_ < least) make_room(least);
    return {buffer_.get() + tail_, capacity_ - tail_};
  }
  // `bytes` of the room were filled.
  void added(size_t bytes) { tail_ += std::min(bytes, capacity_ - tail_); }
  void consume(size_t bytes) { head_ += std::min(bytes, size()); }

 private:
  void make_room(size_t least) {
    const size_t used = size();
    // What is moved is at most half of what was filled since the last time.
    if (used > capacity_ / 2 || capacity_ - used < least) {
      const size_t wanted = std::max(2 * capacity_, used + least);
      auto larger = std::make_unique_for_overwrite<std::byte[]>(wanted);
      if (used != 0) std::memcpy(larger.get(), buffer_.get() + head_, used);
      buffer_ = std::move(larger);
      capacity_ = wanted;
    } else {
      std::memmove(buffer_.get(), buffer_.get() + head_, used);
    }
    head_ = 0;
    tail_ = used;
  }

  std::unique_ptr<std::byte[]> buffer_;
  size_t capacity_ = 0;
  size_t head_ = 0;
  size_t tail_ = 0;
};

}  // namespace vhost

#endif  // MIGRATION_BYTE_QUEUE_H_
