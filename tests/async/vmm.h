// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ASYNC_VMM_H_
#define TESTS_ASYNC_VMM_H_

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tests/async/far_side.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::async {

// What became of an operation.
struct Outcome {
  int calls = 0;
  absl::Status status = absl::UnknownError("not over");
  bool on_loop = false;  // Its completion ran on the loop, in a turn of it.

  bool over() const { return calls > 0; }
};

struct VmmOptions {
  MaskMode masks = MaskMode::kLocal;
  std::optional<ReconnectPolicy> reconnect = {};
};

// A VMM with one device of two queues.
class Vmm {
 public:
  // All three are borrowed.  `turn` turns `loop` once, without waiting.
  Vmm(EventLoop& loop, std::function<void()> turn, FarSide& far,
      const VmmOptions& options = {});
  ~Vmm();
  Vmm(const Vmm&) = delete;
  Vmm& operator=(const Vmm&) = delete;

  // One turn of the loop, and one step of the back-end.
  void round();
  // Rounds until `done`; false if there were too many.
  bool rounds_until(absl::FunctionRef<bool()> done);
  // Rounds in which nothing more should happen.
  void settle();

  // How the VMM's own code is run: what it does with the device.
  std::function<void(absl::FunctionRef<void()>)> as_vmm =
      [](absl::FunctionRef<void()> work) { work(); };

  // Begins something; `begin` may destroy the device.
  std::shared_ptr<const Outcome> begin(
      absl::FunctionRef<void(Completion)> begin);
  absl::Status drive(absl::FunctionRef<void(Completion)> begin);

  // From kCreated to `state`.
  void bring_to(DeviceState state);

  // A further section of memory, of 1 MiB.
  MemorySection dimm(uint64_t gpa);

  EventLoop& loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  testing::FakeVirtioDevice guest;
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  std::unique_ptr<VhostDev> dev;
  std::vector<std::byte> config;  // Where get_config puts it.

 private:
  std::function<void()> turn_;
  FarSide& far_;
  bool turning_ = false;
};

// One of all the things that a VMM asks of a device and waits for.
struct Operation {
  const char* name;
  // Where it is tried, and what comes of it there.
  struct Place {
    FarKind kind;
    absl::StatusCode code = absl::StatusCode::kOk;
  };
  std::vector<Place> places;
  DeviceState from;
  void (*begin)(Vmm& vmm, Completion done);
  void (*prepare)(Vmm& vmm) = [](Vmm&) {};
  // Whether the device is asked.  A context's operations outlive it.
  bool of_device = true;
  // Not if the answer is only posted, nor what a context was asked.
  bool can_be_cancelled = true;
};
const std::vector<Operation>& operations();
void PrintTo(const Operation& operation, std::ostream* out);

}  // namespace vhost::async

#endif  // TESTS_ASYNC_VMM_H_
