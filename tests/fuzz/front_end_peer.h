// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_FRONT_END_PEER_H_
#define TESTS_FUZZ_FRONT_END_PEER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "backends/user/codec.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {

// Stops the program, and says why, unless `condition` holds.
void require(bool condition, absl::string_view what);

// The input, front to back; zeros behind its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  uint64_t u64() {
    uint64_t out = 0;
    for (int shift = 0; shift < 64; shift += 8) {
      out |= uint64_t{byte()} << shift;
    }
    return out;
  }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

// The back-end: one side of a socket pair.
class FrontEndPeer {
 public:
  FrontEndPeer(UniqueFd socket, Input& input);

  // Reads and answers all that is there; whether there was anything.
  bool serve(bool meddles);

 private:
  bool log_shmfd() const {
    return (protocol_features_ & bit_mask(kProtocolLogShmfd)) != 0;
  }

  // System calls are what a run takes its time with: requests are read, and
  // replies sent, as many at once as there are.  What is asked of descriptors
  // is tested elsewhere; here they are left to the kernel, which closes them.
  bool next_request();
  bool read_more();
  void flush();

  void answer(Request id, const ReplyShape& shape, uint8_t mischief);
  std::vector<std::byte> right_body(Request id, const ReplyShape& shape);
  bool right_fd(Request id, const ReplyShape& shape) const;
  void send(std::span<const std::byte> bytes, bool with_fd);

  UniqueFd socket_;
  Input& input_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  uint64_t queue_num_ = 0;
  uint64_t slots_ = 0;
  uint8_t status_ = 0;
  std::vector<std::byte> in_;
  size_t in_head_ = 0;
  std::vector<std::byte> out_;
  wire::Header header_ = {};
  std::array<std::byte, 4096> payload_ = {};
};

}  // namespace vhost::user

#endif  // TESTS_FUZZ_FRONT_END_PEER_H_
