// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_DRIVER_STATE_H_
#define VHOSTDEV_DRIVER_STATE_H_

// What a driver and its clients know that does not lie in guest memory: with
// that memory at the same addresses, another process goes on from there.  Plain
// values; save() makes them, restore() believes nothing in them.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/features.h"
#include "vhostdev/net_client.h"
#include "vhostdev/vring.h"

namespace vhost {

// The driver's side of a split ring (SplitVirtqueue).
struct SplitRingState {
  struct Request {
    uint64_t cookie = 0;
    uint32_t writable = 0;     // Bytes the device may write.
    uint16_t descriptors = 0;  // Of the ring; never 0.

    friend bool operator==(const Request&, const Request&) = default;
  };

  uint16_t submitted = 0;   // The available index behind what was submitted.
  uint16_t published = 0;   // The same, as the device sees it.
  uint16_t taken = 0;       // The used index that comes next.
  bool interrupts = false;  // Asked for a signal with the next completion.
  std::vector<Request> in_flight;
  // Their descriptors in order, one request's behind the other's.
  std::vector<uint16_t> chains;

  friend bool operator==(const SplitRingState&,
                         const SplitRingState&) = default;
};

// VirtioDriver.
struct DriverState {
  struct Queue {
    VringBase position{};     // Where the device stands.
    uint64_t ring_gpa = 0;    // A split_ring_layout().
    uint64_t tables_gpa = 0;  // Indirect, where indirect_entries is not 0.
    SplitRingState ring;

    friend bool operator==(const Queue&, const Queue&) = default;
  };

  FeatureSet features;
  uint32_t fixed = 0;  // As VirtioDriver::Started.
  uint32_t depth = 0;
  uint32_t indirect_entries = 0;  // 0: without INDIRECT_DESC too.
  std::vector<Queue> queues;      // Of the device, fixed ones included.

  friend bool operator==(const DriverState&, const DriverState&) = default;
};

// BlkClient.
struct BlkClientState {
  struct Request {
    uint32_t slot = 0;  // The ring's cookie.
    uint64_t cookie = 0;
    BlkOp op = BlkOp::kRead;
    uint64_t offset = 0;  // Bytes.

    friend bool operator==(const Request&, const Request&) = default;
  };
  struct Queue {
    uint64_t wires_gpa = 0;
    std::vector<Request> in_flight;

    friend bool operator==(const Queue&, const Queue&) = default;
  };

  BlkConfig config;
  uint32_t depth = 0;
  uint64_t id_gpa = 0;
  std::vector<Queue> queues;

  friend bool operator==(const BlkClientState&,
                         const BlkClientState&) = default;
};

// NetClient.
struct NetClientState {
  // Taken from the ring and not yet from the client.
  struct Taken {
    uint32_t slot = 0;
    uint32_t written = 0;  // Bytes.

    friend bool operator==(const Taken&, const Taken&) = default;
  };
  struct Sent {
    uint32_t slot = 0;
    uint64_t cookie = 0;

    friend bool operator==(const Sent&, const Sent&) = default;
  };
  struct Pair {
    uint64_t send_gpa = 0;
    std::vector<Sent> in_flight;  // In `sent`, too.
    std::vector<Taken> sent;
    uint64_t receive_gpa = 0;
    std::vector<Taken> received;

    friend bool operator==(const Pair&, const Pair&) = default;
  };

  // As NetClient::Options.
  uint32_t send_depth = 0;
  uint32_t max_frame = 0;
  uint32_t buffers = 0;
  uint32_t buffer_size = 0;
  std::vector<Pair> pairs;

  friend bool operator==(const NetClientState&,
                         const NetClientState&) = default;
};

// As bytes, with a version in front.  docs/formats/driver_state.md.
std::string encode(const DriverState& state);
std::string encode(const BlkClientState& state);
std::string encode(const NetClientState& state);

// The same backwards, for bytes of any origin: one that is accepted takes
// memory in proportion to its length, and has no more of anything than a device
// can have.  Whether it makes sense is for restore() to say.
// Errors: kDataLoss  what is wrong, and at which byte.
absl::StatusOr<DriverState> decode_driver_state(absl::string_view bytes);
absl::StatusOr<BlkClientState> decode_blk_client_state(absl::string_view bytes);
absl::StatusOr<NetClientState> decode_net_client_state(absl::string_view bytes);

}  // namespace vhost

#endif  // VHOSTDEV_DRIVER_STATE_H_
