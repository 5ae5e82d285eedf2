// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_PAYLOAD_GUEST_H_
#define TOOLS_MINIVM_MACHINE_PAYLOAD_GUEST_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tests/guest/payload/mailbox.h"
#include "tools/minivm/guest.h"
#include "tools/minivm/machine.h"
#include "tools/minivm/machine/bus.h"
#include "tools/minivm/machine/kvm_machine.h"
#include "tools/minivm/machine/serial.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/state_bytes.h"

namespace vhost::minivm {

// The payload, and the page of memory that it and this process tell each other
// things by.  Loop thread.
class PayloadGuest final : public Guest {
 public:
  PayloadGuest(EventLoop& loop, KvmMachine& machine, PayloadOptions options)
      : loop_(loop),
        machine_(machine),
        comes_(options.comes),
        workload_(options.workload),
        serial_(loop, std::move(options.serial)),
        doorbell_(*this),
        alive_(std::make_shared<bool>(true)) {}
  ~PayloadGuest() override { machine_.stop(); }

  // Finds the mailbox in `memory`, and puts program, tree and workload there,
  // if they do not come from elsewhere.
  absl::Status set_up(const AddressSpace& memory,
                      const PayloadOptions& options);

  absl::Status start(absl::AnyInvocable<void()> ended) override;
  void pause(Completion done) override;
  void resume() override;
  void hold(Completion done) override;
  void release() override;
  void finish() override;
  void kill() override;
  absl::StatusOr<std::string> save() const override;
  absl::Status load(absl::string_view state) override;
  WorkloadReport report() const override;
  uint64_t exits() const override { return machine_.exits(); }

 private:
  // The guest says that Mailbox::state changed.
  class Doorbell final : public BusDevice {
   public:
    explicit Doorbell(PayloadGuest& guest) : guest_(guest) {}
    void read(uint64_t offset, std::span<std::byte> out) override {
      static_cast<void>(offset);
      std::fill(out.begin(), out.end(), std::byte{0xff});
    }
    bool write(uint64_t offset, std::span<const std::byte> bytes,
               EventLoop::Callback done) override {
      static_cast<void>(offset);
      static_cast<void>(bytes);
      static_cast<void>(done);
      // One is on its way at most.  Cleared before the look: none is missed.
      if (!rung_.exchange(true)) {
        guest_.post([this] {
          rung_ = false;
          guest_.look_at_state();
        });
      }
      return false;
    }

   private:
    PayloadGuest& guest_;
    std::atomic<bool> rung_{false};
  };

  // Any thread: runs on the loop, if the guest is still there.
  void post(absl::AnyInvocable<void()> callback) {
    loop_.post([alive = std::weak_ptr<bool>(alive_),
                callback = std::move(callback)]() mutable {
      if (!alive.expired()) callback();
    });
  }

  absl::Status put_program(const AddressSpace& memory,
                           const PayloadOptions& options);
  void init_mailbox();
  absl::Status load_all(absl::string_view state);
  absl::Status check_mailbox() const;
  absl::Status start_machine();
  void go_on_working();
  void command(payload::Command wanted);
  payload::u32 commanded() const;
  void wake();
  void look_at_state();
  void end();
  void answer_hold(absl::Status status);
  void watch();
  payload::u64 progress() const;
  const char* state_name() const;

  EventLoop& loop_;
  KvmMachine& machine_;
  const bool comes_;
  bool loaded_ = false;
  Workload workload_;
  std::shared_ptr<const MemoryRegion> ram_;  // Where the mailbox is.
  payload::Mailbox* mailbox_ = nullptr;
  uint64_t entry_ = 0;
  Serial serial_;
  Doorbell doorbell_;
  absl::AnyInvocable<void()> ended_;
  Completion holding_;
  std::unique_ptr<EventLoop::Timer> hold_timer_;
  std::unique_ptr<EventLoop::Timer> watchdog_;
  std::unique_ptr<EventLoop::Timer> finish_timer_;
  std::optional<MonotonicTime> finish_at_;
  payload::u64 seen_progress_ = 0;
  bool started_ = false;
  bool paused_ = false;
  bool over_ = false;
  bool killed_ = false;
  std::string failure_;  // Of the machine.
  std::shared_ptr<bool> alive_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_PAYLOAD_GUEST_H_
