// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_device.h"

#include <algorithm>
#include <cstring>

namespace vhost::testing {

uint64_t total_size(std::span<const ModelSegment> segments) {
  uint64_t size = 0;
  for (const ModelSegment& segment : segments) size += segment.size;
  return size;
}

std::vector<ModelSegment> slice(std::span<const ModelSegment> segments,
                                uint64_t offset, uint64_t size) {
  std::vector<ModelSegment> out;
  for (const ModelSegment& segment : segments) {
    if (size == 0) break;
    if (offset >= segment.size) {
      offset -= segment.size;
      continue;
    }
    const auto piece =
        static_cast<uint32_t>(std::min<uint64_t>(segment.size - offset, size));
    out.push_back({segment.host + offset, piece, segment.gpa + offset});
    size -= piece;
    offset = 0;
  }
  return out;
}

size_t copy_from(std::span<const ModelSegment> segments,
                 std::span<std::byte> out) {
  size_t done = 0;
  for (const ModelSegment& segment : segments) {
    const size_t piece = std::min<size_t>(segment.size, out.size() - done);
    if (piece == 0) break;
    std::memcpy(out.data() + done, segment.host, piece);
    done += piece;
  }
  return done;
}

size_t copy_to(std::span<const ModelSegment> segments,
               std::span<const std::byte> in) {
  size_t done = 0;
  for (const ModelSegment& segment : segments) {
    const size_t piece = std::min<size_t>(segment.size, in.size() - done);
    if (piece == 0) break;
    std::memcpy(segment.host, in.data() + done, piece);
    done += piece;
  }
  return done;
}

}  // namespace vhost::testing
