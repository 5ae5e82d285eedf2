// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_QEMU_INFLIGHT_H_
#define VHOSTDEV_QEMU_INFLIGHT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "vhostdev/cxx20.h"

// The inflight area of a device as QEMU's migration stream has it: for who
// takes a guest over from QEMU, or hands one to it.  Streams of this library
// have records of their own (migration_records.h).

namespace vhost {

struct QemuInflight {
  uint16_t queue_size = 0;
  std::vector<std::byte> area;  // Empty: the device has none.

  friend bool operator==(const QemuInflight&, const QemuInflight&) = default;
};

// All integers are big-endian.
enum class QemuInflightForm : uint8_t {
  // size:be64, then unless it is 0: queue_size:be16 byte[size].
  // QEMU: vhost_dev_save_inflight, until it was removed.
  kPlain,
  // Subsections: 5 length:u8 name version:be32, and what is in it.
  //   "vhost-user-blk/inflight" 1:      size:be64 queue_size:be16
  //   "vhost-inflight-region/buffer" 0: byte[size]
  // QEMU: property inflight-migration of vhost-user-blk.
  kSubsection,
};

// Of no area: kPlain a size of 0, kSubsection nothing.
std::vector<std::byte> encode_qemu_inflight(const QemuInflight& inflight,
                                            QemuInflightForm form);

struct DecodedQemuInflight {
  QemuInflight inflight;
  size_t bytes = 0;  // Of the input that it took; more may follow.
};
// Empty: `in` ends within it, and more of the stream is needed.
// Errors: kDataLoss           not such a section; of an area without queues.
//         kUnimplemented      a version that is not known.
//         kResourceExhausted  an area of more than kMaxInflightArea bytes,
//                             before any of it is kept.
absl::StatusOr<std::optional<DecodedQemuInflight>> decode_qemu_inflight(
    std::span<const std::byte> in, QemuInflightForm form);

}  // namespace vhost

#endif  // VHOSTDEV_QEMU_INFLIGHT_H_
