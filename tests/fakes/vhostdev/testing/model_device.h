// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_DEVICE_H_
#define VHOSTDEV_TESTING_MODEL_DEVICE_H_

#include <cstddef>
#include <cstdint>
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
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_DEVICE_H_
