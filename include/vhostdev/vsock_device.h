// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VSOCK_DEVICE_H_
#define VHOSTDEV_VSOCK_DEVICE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/features.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vring.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {

// The queues of a socket device.  The back-end has two of them; the event queue
// is the VMM's own.
// Source: VIRTIO 1.3, "Socket Device", "Virtqueues".
struct VsockQueues {
  static constexpr QueueIndex kReceive{0};
  static constexpr QueueIndex kTransmit{1};
  static constexpr QueueIndex kEvent{2};
  static constexpr uint32_t kCount = 3;

  // For VhostDev::Options::queues.
  static QueueMap map();
};

// The features a VMM's socket device can offer as far as its back-end has them:
// the `table` of VhostDev::get_features and ack_features.
inline constexpr FeatureSet kVsockFeatures{
    kVsockFeatureStream, kVsockFeatureSeqpacket,   kFeatureNotifyOnEmpty,
    kFeatureAnyLayout,   kFeatureIndirectDesc,     kFeatureEventIdx,
    kFeatureVersion1,    kFeatureAccessPlatform,   kFeatureRingPacked,
    kFeatureInOrder,     kFeatureNotificationData, kFeatureRingReset};

// What a VMM's socket device does besides what every device does.  Beside a
// VhostDev and on its thread; completions are called, or not, as that one's.
class VsockDevice {
 public:
  struct Options {
    // Of the guest, 3 to 2^32 - 2.  0: the back-end knows it and has the
    // configuration space (vhost-user).
    uint64_t guest_cid = 0;

    // Puts `event` into the guest's next buffer of the event queue and signals
    // that queue; false: there is none now.  Called on the loop's thread, while
    // the device runs, inside the methods below.  Empty: events are kept.
    absl::AnyInvocable<bool(std::span<const std::byte> event)> send_event;
  };

  // `dev` was made with VsockQueues::map(); nothing is called here after its
  // end.
  VsockDevice(VhostDev& dev, Options options);

  // Instead of VhostDev::start: tells the back-end the guest's CID, which is
  // not known to it after every init, then starts; a kept event is sent.
  // These are two operations of the VhostDev: ask for a stop through stop(),
  // for VhostDev::stop between them would be over before the second.
  // Errors: kCancelled        stop() was called before the second began.
  //         kInvalidArgument  no guest can have Options::guest_cid.
  //         kAborted          the CID is another guest's on this host.
  //         as VhostDev::start.
  // QEMU: vhost_vsock_set_status.
  void start(Completion done);

  // Instead of VhostDev::stop, and just as that; a start() under way does not
  // go on.
  void stop(StopReason reason, Completion done);

  // The guest's CID is another one from now on, as after a migration to a host
  // where the old one is taken.  Tells the back-end; the guest gets a transport
  // reset when the device runs.  States: kReady.
  // Errors: as start(); the CID stays as it was.
  void set_guest_cid(uint64_t cid, Completion done);
  uint64_t guest_cid() const;

  // Reads `out.size()` bytes of the configuration space: the back-end's, where
  // Options::guest_cid is 0, otherwise ours.  `out` outlives the operation.
  // Nothing in it can be written.
  // Errors: kInvalidArgument  past the 8 bytes it has.
  void get_config(uint32_t offset, std::span<std::byte> out, Completion done);

  // The connections of the guest are gone: it came here by a migration, or its
  // back-end was replaced.  Sends it the event that says so, now or as soon as
  // the device runs and the driver has a buffer for it; several become one.
  // QEMU: vhost_vsock_common_send_transport_reset.
  void transport_reset();

  // The driver kicked the event queue: there may be a buffer now.
  void event_queue_kicked();

  // Whether an event waits for a buffer.  Saved with the device by a migration,
  // as transport_reset() after the load does.
  bool event_pending() const;

 private:
  // Shared with operations under way.
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace vhost

#endif  // VHOSTDEV_VSOCK_DEVICE_H_
