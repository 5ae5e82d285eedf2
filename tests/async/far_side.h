// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ASYNC_FAR_SIDE_H_
#define TESTS_ASYNC_FAR_SIDE_H_

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>

#include "vhostdev/vhost_ops.h"

namespace vhost::async {

// What operations are tried on.
enum class FarKind : uint8_t {
  kDisk,     // vhost-user: a model disk.
  kCard,     // vhost-user: a model network card.
  kFake,     // A FakeVhostOps, which has every verb.
  kNarrow,   // The disk, behind a socket that takes few messages at a time.
  kFlooded,  // The disk, with a channel that is full of requests all the time.
  kFrozen,   // The disk in another process, which freeze() stops.
};
std::string name_of(FarKind kind);
void PrintTo(FarKind kind, std::ostream* out);

// A back-end that moves only inside step(), on the test's thread; but for
// kFrozen.
class FarSide {
 public:
  virtual ~FarSide() = default;

  // The device's way to it; once.
  virtual std::unique_ptr<VhostOps> make_ops() = 0;
  virtual uint32_t device_id() const = 0;
  virtual uint32_t config_size() const { return 0; }
  virtual bool has_iommu() const { return false; }
  // Does some of what it has to do; never waits for the device.
  virtual void step() = 0;
  // As the back-end sees it.
  virtual bool connected() = 0;
  // From now on it neither reads nor answers.
  virtual void freeze() = 0;
};
std::unique_ptr<FarSide> make_far_side(FarKind kind);

}  // namespace vhost::async

#endif  // TESTS_ASYNC_FAR_SIDE_H_
