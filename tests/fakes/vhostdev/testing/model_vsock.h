// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_VSOCK_H_
#define VHOSTDEV_TESTING_MODEL_VSOCK_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_device.h"
#include "vhostdev/vsock_packet.h"

namespace vhost::testing {

struct ModelVsockOptions {
  uint64_t guest_cid = 3;
  // The host's ports to which a guest can connect; empty: all.
  std::set<uint32_t> ports = {};
  // Bytes of a connection that wait to be echoed, at most.
  uint32_t stream_buffer = 64 << 10;
  bool has_event_queue = true;  // Queue 2 is ours, not the VMM's.
};

// Counted since the ModelVsock was made.
struct ModelVsockCounters {
  uint64_t accepted = 0;  // Connections of the guest.
  uint64_t refused = 0;
  uint64_t bytes_from_guest = 0;
  uint64_t bytes_to_guest = 0;
  uint64_t violations = 0;  // Packets that broke a rule: reset.
  uint64_t closed = 0;      // Connections that are over, however.
};

// A socket device whose host echoes: every byte of every connection comes back.
// When the guest has sent its last byte and got it back, the host closes.
//
// Thread: that of its back-end, except where a method says otherwise.
// Source: VIRTIO 1.3, "Socket Device".
class ModelVsock final : public ModelDevice {
 public:
  static constexpr size_t kMostConnections = 1024;
  // Packets without data that wait for buffers; a guest that has more of them
  // made breaks its ring.
  static constexpr size_t kMostAnswers = 4096;

  explicit ModelVsock(ModelVsockOptions options = {});
  ~ModelVsock() override;

  // The host connects to the guest's `port`, and echoes there too.  Any thread.
  void connect(uint32_t port);

  // All connections are gone; from now on the guest is `guest_cid`, as its
  // configuration space says.  The guest is told through the event queue.  Any
  // thread.
  void transport_reset(uint64_t guest_cid);

  // The guest may send no more until this is called with false: nothing is
  // echoed meanwhile.  Any thread.
  void hold(bool held);

  // Any thread.
  ModelVsockCounters counters() const;
  size_t connections() const;

  uint32_t device_id() const override { return kDeviceIdVsock; }
  FeatureSet features() const override { return {kVsockFeatureStream}; }
  void accept_features(FeatureSet) override {}
  std::vector<std::byte> config() const override;
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override;
  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override;
  void reset() override;
  ModelQueueUse use_of(uint32_t queue) const override;
  absl::StatusOr<ModelReceived> receive(
      uint32_t queue, std::span<const ModelRequest> buffers) override;
  void set_waker(std::function<void()> wake) override;

 private:
  using Key = std::pair<VsockAddress, VsockAddress>;  // Host, guest.
  struct Connection {
    bool open = false;
    std::deque<std::byte> echo;
    uint32_t forwarded = 0;  // Echoed.
    uint32_t sent = 0;
    uint32_t guest_forwarded = 0;
    uint32_t guest_buffer = 0;
    bool last_came = false;  // The guest sends no more.
    bool closing = false;    // It was told that we do not either.
  };

  void take(const VsockHeader& header, std::span<const std::byte> payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void take_request(const VsockHeader& header, const Key& key)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void take_open(const VsockHeader& header, std::span<const std::byte> payload,
                 const Key& key, Connection& connection)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void answer(const Key& key, VsockOp op, uint32_t flags = 0)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void violate(const Key& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void forget(const Key& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  VsockHeader header_of(const Key& key, VsockOp op)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The next packet, of at most `room` bytes behind its header; empty: nothing
  // to say.
  std::optional<std::vector<std::byte>> next_packet(size_t room)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void close_drained() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool has_packet() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static uint32_t sendable(const Connection& connection);
  void wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ModelVsockOptions options_;
  mutable absl::Mutex mutex_;
  uint64_t guest_cid_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool event_pending_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t next_port_ ABSL_GUARDED_BY(mutex_) = 50000;
  std::map<Key, Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::deque<VsockHeader> answers_ ABSL_GUARDED_BY(mutex_);
  ModelVsockCounters counters_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_VSOCK_H_
