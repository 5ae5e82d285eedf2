// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_SERIAL_H_
#define TOOLS_MINIVM_MACHINE_SERIAL_H_

#include <array>
#include <atomic>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "tools/minivm/machine/bus.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_bytes.h"

namespace vhost::minivm {

// As much of a 16550 as output needs: its transmitter is always empty.  No
// interrupts, and nothing to receive.
class Serial final : public BusDevice {
 public:
  static constexpr uint64_t kPorts = 8;
  using Sink = absl::AnyInvocable<void(absl::string_view)>;

  // `sink` is given what was written, in pieces, on the loop.  May be empty.
  Serial(EventLoop& loop, Sink sink);

  void read(uint64_t offset, std::span<std::byte> out) override;
  bool write(uint64_t offset, std::span<const std::byte> bytes,
             EventLoop::Callback done) override;

  // The registers, while the guest does not run; loop thread.
  void save(StateWriter& out) const;
  void load(StateReader& in);

 private:
  // Shared with what is posted, which may be left over.
  struct Output {
    absl::Mutex mutex;
    std::string waiting ABSL_GUARDED_BY(mutex);
    Sink sink;  // Loop thread.
  };

  EventLoop& loop_;
  std::shared_ptr<Output> output_;
  std::array<std::atomic<uint8_t>, kPorts> registers_{};
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_SERIAL_H_
