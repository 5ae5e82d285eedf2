// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VSOCK_CLIENT_H_
#define VHOSTDEV_VSOCK_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_driver.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {

// What VsockClient can make use of.
inline constexpr FeatureSet kVsockWantedFeatures{
    kVsockFeatureStream, kFeatureIndirectDesc, kFeatureEventIdx,
    kFeatureVersion1};

// Names a stream of one VsockClient; no other stream gets its number.
enum class VsockStream : uint64_t {};

//   connect --> kConnecting --> kOpen <-- accept
//                    |            |
//                    +-> kClosed <+     (bytes that came can still be read)
enum class VsockState : uint8_t { kConnecting, kOpen, kClosed };

struct VsockStreamInfo {
  VsockState state = VsockState::kConnecting;
  VsockAddress local;
  VsockAddress peer;
  size_t readable = 0;        // Bytes that came and were not read.
  uint32_t credit = 0;        // Bytes the peer would take now.
  bool peer_sends = true;     // Bytes may still come.
  bool peer_receives = true;  // It will read what is sent.
  // Of a closed one: OK, it was shut down by one side and the other agreed;
  // kAborted, the peer refused or reset it; kDataLoss, the peer broke the
  // rules; otherwise VsockClient::status.
  absl::Status status;
};

// A socket device's client: the guest's end of streams between guest and host.
//
// Bytes are copied in and out, what a peer sends is checked, and what it may
// send is bounded: a stream that breaks the rules is reset, a device that does
// so ends the client.  What a method asks of the peer goes out with the next
// kick(), poll() or wait().
//
// Thread: one thread owns the client and its queues; the context's loop thread
// if the device has an event queue.
//
// Source: VIRTIO 1.3, "Socket Device", "Device Operation".
class VsockClient {
 public:
  struct Options {
    // 0: as the configuration space says, which the kernel does not have.
    uint64_t guest_cid = 0;
    uint32_t send_depth = 32;            // Packets under way.
    uint32_t max_payload = 16384;        // Bytes of a packet to send, at most.
    uint32_t buffers = 32;               // Receive buffers.
    uint32_t buffer_size = 4096 + 44;    // Bytes of each, header included.
    uint32_t stream_buffer = 256 << 10;  // Bytes that may wait to be read.
    uint32_t max_streams = 256;
    uint32_t backlog = 16;  // Streams of a port that wait for accept().
  };

  // Takes the queues of `driver`, which is running, has two or three of them
  // and outlives the client.  Stop the driver before the client goes, and with
  // kCancel: buffers for what may arrive never drain.
  // Errors: kInvalidArgument  the driver has other queues, or no call
  //                           notifiers; rings too small for `send_depth` or
  //                           `buffers`; buffers too small for a header; a
  //                           stream_buffer of more than 1 GiB; a guest_cid
  //                           that no guest has.
  //         as VirtioDriver::acquire, read_config and DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<VsockClient>> create(
      VirtioDriver& driver, const Options& options);
  ~VsockClient();
  VsockClient(const VsockClient&) = delete;
  VsockClient& operator=(const VsockClient&) = delete;

  uint64_t guest_cid() const;

  // Begins to connect to `peer`; from `local_port`, or some free port if that
  // is 0.  It is connected when it is kOpen.
  // Errors: kResourceExhausted  too many streams, or the device takes no
  //                             packets and too many wait.
  //         kAlreadyExists      there is such a stream.
  //         status()            the device is given up.
  absl::StatusOr<VsockStream> connect(const VsockAddress& peer,
                                      uint32_t local_port = 0);

  // Takes connections to `port` from now on.
  // Errors: kAlreadyExists  it does so.
  absl::Status listen(uint32_t port);
  // No more of them; those that wait for accept() are reset.
  void stop_listening(uint32_t port);
  // The next connection to `port`, if there is one.
  std::optional<VsockStream> accept(uint32_t port);

  // Sends as much of `bytes` as the peer takes now and there is room for; the
  // number, which may be 0.  The device does not see it before kick().
  // Errors: kFailedPrecondition  not kOpen, or shut down for sending.
  //         kAborted             the peer does not receive any more.
  //         kNotFound            no such stream.
  //         status()             the device is given up.
  absl::StatusOr<size_t> send(VsockStream stream,
                              std::span<const std::byte> bytes);

  // Takes bytes that came, at most out.size(); the number.  0: there are none
  // now, and if the stream is closed or !peer_sends never will be.
  // Errors: kNotFound  no such stream.
  absl::StatusOr<size_t> receive(VsockStream stream, std::span<std::byte> out);

  // Tells the peer what this side will not do any more.  A stream shut down
  // both ways closes when the peer agrees.
  // Errors: kFailedPrecondition  not kOpen.
  //         kNotFound            no such stream.
  absl::Status shutdown(VsockStream stream, bool receive, bool send);

  // Forgets the stream; one that is not closed is reset.
  void close(VsockStream stream);

  // Empty: no such stream.
  std::optional<VsockStreamInfo> info(VsockStream stream) const;

  // Takes the packets that arrived and answers them; the number.  Where the
  // configuration space changed it reads that, and blocks meanwhile, at most
  // for the driver's config_timeout; later if the driver is busy.
  size_t poll();

  // Shows the device what was sent and notifies it, where it wants to know.
  absl::Status kick();

  // Kicks, then sleeps until poll() would find something or the device is given
  // up; false after `timeout`.  Turns the driver's loop meanwhile
  // (VirtioDriver::turn_loop).
  bool wait(Duration timeout);

  // The connections are gone, as the event queue's transport reset says: closes
  // all streams with kAborted; from now on this guest is `guest_cid`.  Ports
  // that listen stay.  poll() does it where there is an event queue, when the
  // configuration space says that the guest is another one, and when the device
  // was reset (VirtioDriver::Options::reconnect).
  void transport_reset(uint64_t guest_cid);

  // Packets that belong to no stream, and were answered with a reset.
  uint64_t stray_packets() const;

  // OK, or why nothing can be sent or will arrive any more: kUnavailable the
  // back-end died; kCancelled the device was stopped; kDataLoss what it did
  // wrong.
  const absl::Status& status() const;

 private:
  struct Impl;
  explicit VsockClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VSOCK_CLIENT_H_
