// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_NET_CLIENT_H_
#define VHOSTDEV_NET_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/net_features.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

struct NetClientState;

// What NetClient can make use of.  It has no control queue, and pairs are
// enabled from the start: it is guest and VMM in one.
inline constexpr FeatureSet kNetWantedFeatures{
    kNetFeatureMtu,       kNetFeatureMac,    kNetFeatureMrgRxbuf,
    kNetFeatureStatus,    kNetFeatureCtrlVq, kNetFeatureMq,
    kFeatureIndirectDesc, kFeatureEventIdx,  kFeatureVersion1};

// A frame that arrived.
struct NetFrame {
  std::vector<std::byte> bytes;  // Without the virtio header.
  uint32_t pair = 0;             // Whose receive queue had it.
};

// A frame that the device is done with: it is on its way, or was dropped.
struct NetSent {
  uint64_t cookie = 0;
  // OK; kUnavailable: the back-end died; kCancelled: the device was stopped;
  // kDataLoss: it broke the rules; kDeadlineExceeded: it was given up;
  // outcome_unknown(): it was reset, and the client goes on.
  absl::Status status;
};

// A network device's client: sends and receives whole Ethernet frames through
// one or more pairs of queues.  Every frame that send() took completes exactly
// once, whatever becomes of the back-end.
//
// Frames are copied in and out: what a device writes later than it should
// changes nothing, and what it says of lengths is checked.
//
// Thread: one thread owns the client and its queues.
//
// Source: VIRTIO 1.3, "Network Device", "Device Operation".
class NetClient {
 public:
  enum class WaitMode : uint8_t {
    kPoll,   // wait() polls the rings: fastest, a whole processor.
    kSleep,  // wait() sleeps until the device signals.
  };
  struct Options {
    WaitMode wait_mode = WaitMode::kPoll;
    uint32_t send_depth = 64;     // Frames under way per pair, at most.
    uint32_t max_frame = 1518;    // Bytes of a frame to send, at most.
    uint32_t buffers = 64;        // Receive buffers per pair.
    uint32_t buffer_size = 2048;  // Bytes of each, header included.
  };

  // Takes every queue of `driver`, which is running and outlives the client.
  // Stop the driver before the client goes, and with kCancel: buffers for
  // what may arrive never drain.
  // Errors: kInvalidArgument  an odd number of queues; rings too small for
  //                           `send_depth` or `buffers`; buffers too small for
  //                           a header, or without MRG_RXBUF for a frame; a
  //                           `max_frame` above the largest MTU's.
  //         as VirtioDriver::acquire and DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<NetClient>> create(
      VirtioDriver& driver, const Options& options);

  // As of BlkClient.  Buffers for what may arrive stay the device's meanwhile:
  // they are part of the state.
  // Errors: kFailedPrecondition  the device was reset, and a queue has not
  //                              begun anew.
  //         status()             the device is given up.
  absl::StatusOr<NetClientState> save() const;

  // As of BlkClient; `options` has that client's sizes and numbers.
  // Errors: as create(), and kInvalidArgument, a state that makes no sense, or
  //         that is not of these rings.
  static absl::StatusOr<std::unique_ptr<NetClient>> restore(
      VirtioDriver& driver, const Options& options,
      const NetClientState& state);

  // Makes the calling thread the owner, as QueueHandle::take_over.
  absl::Status take_over();

  // Bytes that it takes of the driver's memory, at most.  Where they are
  // reserved (DmaMemory::reserve), create() works on any thread, which then
  // owns the client.
  static uint64_t memory_for(uint32_t pairs, const Options& options);

  ~NetClient();
  NetClient(const NetClient&) = delete;
  NetClient& operator=(const NetClient&) = delete;

  uint32_t pairs() const;
  // Frames to send that are under way, on all pairs.
  uint32_t in_flight() const;
  // Most bytes that one frame which arrives can have.
  uint64_t max_received() const;

  // Puts a frame on the transmit queue of `pair`.  The device does not see it
  // before kick(): frames travel in batches.
  // Errors: kInvalidArgument    no such pair; an empty frame, or one that is
  //                             longer than Options::max_frame.
  //         kResourceExhausted  full: poll_sent(), then again.
  //         status()            the device is given up.
  absl::Status send(std::span<const std::byte> frame, uint64_t cookie,
                    uint32_t pair = 0);

  // Shows the device what was sent and notifies it, where it wants to know.
  absl::Status kick();

  // Takes frames the device is done with, at most out.size(); the number.
  size_t poll_sent(std::span<NetSent> out);

  // Takes frames that arrived, at most out.size(); the number.  The buffers go
  // back to the device; the room of out[i].bytes is used again.
  size_t receive(std::span<NetFrame> out);

  // Kicks, then waits until one of the two above would find something or the
  // device is given up; false after `timeout`.  Turns the driver's loop
  // meanwhile (VirtioDriver::turn_loop).
  bool wait(Duration timeout);
  // The same for several clients on this thread, until one of them has
  // something.
  static bool wait_any(std::span<NetClient* const> clients, Duration timeout);

  // OK, or why nothing can be sent or will arrive any more: kUnavailable the
  // back-end died; kCancelled the device was stopped; kDataLoss what it did
  // wrong.
  const absl::Status& status() const;

 private:
  struct Impl;
  explicit NetClient(std::unique_ptr<Impl> impl);
  static void sleep(std::span<NetClient* const> clients, Duration limit);

  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_NET_CLIENT_H_
