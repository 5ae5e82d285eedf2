// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BADINPUT_STAGE_H_
#define TESTS_BADINPUT_STAGE_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "tests/badinput/meddler.h"
#include "tests/peers/process.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost::badinput {

// What a back-end has for one reply, in the time of the loop, which passes only
// where a test lets it.
inline constexpr Duration kReplyTimeout = std::chrono::milliseconds(100);
inline constexpr Duration kDrainTimeout = std::chrono::milliseconds(200);

// A VMM with one block device of two queues, whose back-end is a model behind a
// meddler.  One thread: what happens depends on nothing but the messages.
class Stage {
 public:
  struct Options {
    MaskMode mask_mode = MaskMode::kBackend;
    testing::ModelOptions model = {};
    VhostUserOptions user = {.reply_timeout = kReplyTimeout,
                             .drain_timeout = kDrainTimeout,
                             .memory_timeout = kReplyTimeout};
    VhostDev::Options device = {};
    bool iommu = false;
    // Connects there instead: there is no meddler.
    std::string path = {};
    // Without a meddler: whether time may pass, because nothing will come.
    std::function<bool()> stuck = [] { return true; };
  };

  Stage() : Stage(Options()) {}
  explicit Stage(Options options);
  ~Stage();
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;

  // An operation begun here, and what became of it.
  struct Outcome {
    int calls = 0;
    absl::Status status = absl::UnknownError("not over");
    // How long it took, on the loop's clock.
    Duration took{0};
  };
  // Does it, letting time pass where nothing else moves, but not more than
  // `patience`.
  Outcome drive(absl::FunctionRef<void(Completion)> begin,
                Duration patience = std::chrono::seconds(2));
  // The same in two steps; `begin` may destroy the device.
  std::shared_ptr<const Outcome> begin(
      absl::FunctionRef<void(Completion)> begin);
  void finish(const Outcome& outcome,
              Duration patience = std::chrono::seconds(2));

  // Moves everything that moves without time.
  void settle();
  // settle(), and time passes.
  void pass(Duration time);

  Outcome init();
  Outcome start();
  Outcome stop(StopReason reason = StopReason::kVmPause);
  // From whatever state to running, and that it gets there.
  void run();
  // That the device, whatever was done to it, can be connected, started and
  // stopped.
  void recover();

  // A further section of memory, of 1 MiB; in no transaction.
  MemorySection dimm(uint64_t gpa);

  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  testing::FakeVirtioDevice guest{{.queues = 2, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  testing::TempDir dir;
  std::unique_ptr<testing::ModelBlk> disk;
  std::optional<Meddler> meddler;
  std::unique_ptr<VhostDev> dev;
  std::unique_ptr<EventLoop::Timer> timer;  // Of an action's own.

 private:
  std::function<bool()> stuck_;
};

// One of the things a VMM does, to be disturbed at every one of its messages.
struct Action {
  const char* name;  // Of the test.
  const char* verb;  // As errors name it; "" where they need not.
  void (*prepare)(Stage& stage);
  void (*begin)(Stage& stage, Completion done);
};
const std::vector<Action>& actions();

// The requests that `action` consists of, when all goes well.
const std::vector<Meddler::Request>& requests_of(const Action& action);
// How many its preparation consists of, on the same connection.
size_t requests_before(const Action& action);

}  // namespace vhost::badinput

#endif  // TESTS_BADINPUT_STAGE_H_
