// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_DEVICE_H_
#define VHOSTDEV_TESTING_MODEL_DEVICE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"

namespace vhost::testing {

// A piece of guest memory, checked and mapped.  Its bytes may change at any
// moment: copy, then look.
struct ModelSegment {
  std::byte* host = nullptr;
  uint32_t size = 0;  // Bytes, never 0.
  uint64_t gpa = 0;
};

// One request of a guest: first what the device may read, then what it may
// write.
struct ModelRequest {
  uint32_t queue = 0;
  std::vector<ModelSegment> readable;
  std::vector<ModelSegment> writable;
};

uint64_t total_size(std::span<const ModelSegment> segments);

// The `size` bytes of `segments` that begin `offset` bytes in; fewer if there
// are fewer.
std::vector<ModelSegment> slice(std::span<const ModelSegment> segments,
                                uint64_t offset, uint64_t size);

// Copies as much as both sides have and says how much that was.
size_t copy_from(std::span<const ModelSegment> segments,
                 std::span<std::byte> out);
size_t copy_to(std::span<const ModelSegment> segments,
               std::span<const std::byte> in);

// What becomes of the requests of a queue.
enum class ModelQueueUse : uint8_t {
  kRequests,  // handle() each.  While the ring is disabled none is taken.
  kTransmit,  // The same, but those of a disabled ring are discarded.
  kReceive,   // They are buffers for what the device has to say: receive().
};

// What a device did with the buffers it was shown.
struct ModelReceived {
  // It has more to say than they hold: show it one more.  They stay the
  // driver's if there is none.
  bool wants_buffer = false;
  // Bytes written to each of them, otherwise; empty: there is nothing to say.
  std::vector<uint32_t> written = {};
};

// What kind of device a ModelBackend is: a block device, a network card.
// Called on the thread that drives the back-end, one call at a time.
class ModelDevice {
 public:
  virtual ~ModelDevice() = default;

  virtual uint32_t device_id() const = 0;

  // The features of this kind of device; those of rings and transport are the
  // back-end's own.
  virtual FeatureSet features() const = 0;
  // What the front-end accepted, of all features.
  virtual void accept_features(FeatureSet accepted) = 0;

  // The configuration space, at most 256 bytes.
  virtual std::vector<std::byte> config() const = 0;
  // A write of the guest's driver, or a restore by a migration, which may set
  // what a driver may not.  The range lies within config().
  // Errors: kInvalidArgument  a field that cannot be written, or a wrong value.
  virtual absl::Status write_config(uint32_t offset,
                                    std::span<const std::byte> bytes,
                                    bool migration) = 0;

  // Does what `request` asks for and returns the number of bytes written to
  // its writable part, counted from its first.
  // Errors: any  the request is malformed beyond an answer: the ring breaks.
  virtual absl::StatusOr<uint32_t> handle(const ModelRequest& request) = 0;

  // Back to how the device was before the first driver.
  virtual void reset() = 0;

  // -- What only some devices have. ----------------------------------------

  // Protocol features (a bit each) that only this kind of device has.
  virtual uint64_t protocol_features() const { return 0; }

  virtual ModelQueueUse use_of(uint32_t queue) const {
    static_cast<void>(queue);
    return ModelQueueUse::kRequests;
  }

  // A kReceive queue runs: writes what the device has to say to `buffers`, of
  // which there may be none yet.  Called again for the next thing to say.
  // Errors: any  a buffer is malformed: the ring breaks.
  virtual absl::StatusOr<ModelReceived> receive(
      uint32_t queue, std::span<const ModelRequest> buffers) {
    static_cast<void>(queue);
    static_cast<void>(buffers);
    return ModelReceived{};
  }

  // Whether `queue` is started and enabled, whenever that changes.
  virtual void set_active(uint32_t queue, bool active) {
    static_cast<void>(queue);
    static_cast<void>(active);
  }

  // What has receive() called again; may be called on any thread, inside any
  // of these too.  Empty: the back-end is gone.
  virtual void set_waker(std::function<void()> wake) {
    static_cast<void>(wake);
  }

  // SEND_RARP and NET_SET_MTU, where their protocol features are offered.
  // Errors: kInvalidArgument  it cannot do with that.
  virtual absl::Status send_rarp(const std::array<uint8_t, 6>& mac) {
    static_cast<void>(mac);
    return absl::UnimplementedError("no network device");
  }
  virtual absl::Status set_mtu(uint64_t mtu) {
    static_cast<void>(mtu);
    return absl::UnimplementedError("no network device");
  }
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_DEVICE_H_
