// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VIRTIO_DEVICE_FIXTURE_H_
#define TESTS_VIRTIO_DEVICE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "vhostdev/memory.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/faulty_ops.h"
#include "vhostdev/testing/manual_event_loop.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {

// What became of one operation.
class Outcome {
 public:
  Completion completion() {
    return [state = state_](absl::Status status) {
      ++state->calls;
      state->status = std::move(status);
    };
  }
  bool over() const { return state_->calls > 0; }
  int calls() const { return state_->calls; }
  // Of an operation that is not over: kUnknown.
  absl::Status status() const { return state_->status; }
  absl::StatusCode code() const { return state_->status.code(); }
  std::string message() const { return std::string(state_->status.message()); }

 private:
  struct State {
    int calls = 0;
    absl::Status status = absl::UnknownError("not over");
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

// 1 MiB of guest memory at 0, a block device with two queues in it, and a
// well-behaved back-end; everything on one loop that the test turns.
class DeviceTest : public ::testing::Test {
 protected:
  using Journal = std::vector<std::string>;

  static constexpr uint64_t kRam = 1 << 20;
  static constexpr QueueIndex kVq0{0};
  static constexpr QueueIndex kVq1{1};

  DeviceTest() { ram = testing::add_memory(memory, 0, kRam); }
  ~DeviceTest() override {
    if (ops != nullptr && dev != nullptr) {
      EXPECT_THAT(ops->misuse, ::testing::IsEmpty());
    }
  }

  static VhostDev::Options options_for(uint32_t queues = 2) {
    VhostDev::Options options;
    options.name = "disk";
    options.queues = QueueMap::identity(queues);
    return options;
  }

  // A device over a back-end with `traits`, not connected.
  void make(BackendTraits traits = testing::like_vhost_user(),
            VhostDev::Options options = options_for()) {
    auto fake = std::make_unique<testing::FakeVhostOps>(std::move(traits));
    ops = fake.get();
    journal = fake->shared_journal;
    dev = std::make_unique<VhostDev>(context, std::move(fake), guest, binding,
                                     events, &services, std::move(options));
  }

  // The same, connected and with an empty journal.
  void make_ready(BackendTraits traits = testing::like_vhost_user(),
                  VhostDev::Options options = options_for()) {
    make(std::move(traits), std::move(options));
    ASSERT_TRUE(init().ok());
    clear_journals();
  }

  // The same, running.
  void make_running(BackendTraits traits = testing::like_vhost_user(),
                    VhostDev::Options options = options_for()) {
    make_ready(std::move(traits), std::move(options));
    ASSERT_TRUE(start().ok());
    clear_journals();
  }

  // Does one operation by turning the loop; kUnknown if it did not end.
  absl::Status drive(absl::FunctionRef<void(Completion)> operation) {
    Outcome outcome;
    operation(outcome.completion());
    EXPECT_FALSE(outcome.over()) << "completed inside the call";
    loop.run_ready();
    return outcome.status();
  }
  absl::Status init() {
    return drive([this](Completion done) { dev->init(std::move(done)); });
  }
  absl::Status start() {
    return drive([this](Completion done) { dev->start(std::move(done)); });
  }
  absl::Status stop(StopReason reason = StopReason::kVmPause) {
    return drive([&](Completion done) { dev->stop(reason, std::move(done)); });
  }

  // `status` without what is known of the device besides.
  static absl::Status without_record(const absl::Status& status) {
    return absl::Status(status.code(), status.message());
  }

  void clear_journals() {
    journal->clear();
    binding.journal.clear();
  }

  // What the guest and the back-end of queue `vq` wrote to its ring.
  void set_indexes(QueueIndex vq, uint16_t avail, uint16_t used) {
    const VirtqueueConfig queue = guest.queue(vq);
    ASSERT_TRUE(testing::set_avail_index(memory, queue, avail));
    ASSERT_TRUE(testing::set_used_index(memory, queue, used));
  }
  void set_base(QueueIndex vq, uint16_t base) {
    ops->backend.harvests[to_int(vq)] = VringBase{base};
  }

  testing::ManualEventLoop loop;
  AddressSpace memory;
  std::shared_ptr<MemoryRegion> ram;
  VhostContext context{loop, memory};
  // A ring at address 0 would be one that the guest did not configure.
  testing::FakeVirtioDevice guest{{.queues = 2, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding;
  testing::RecordingBackendEvents events;
  testing::RecordingBackendServices services;
  std::unique_ptr<VhostDev> dev;
  testing::FakeVhostOps* ops = nullptr;
  std::shared_ptr<Journal> journal = std::make_shared<Journal>();
};

}  // namespace vhost

#endif  // TESTS_VIRTIO_DEVICE_FIXTURE_H_
