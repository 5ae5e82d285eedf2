// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_VCPU_H_
#define TOOLS_MINIVM_MACHINE_VCPU_H_

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "tools/minivm/machine/kvm.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// Whom a vCPU asks and tells.  Called on its thread.
class VcpuEvents {
 public:
  virtual ~VcpuEvents() = default;

  enum class Space : uint8_t { kMemory, kPorts };
  enum class Access : uint8_t { kDone, kPending, kNobody };
  virtual Access read(Space space, uint64_t address,
                      std::span<std::byte> out) = 0;
  // kPending: the vCPU goes on when `done` ran, on any thread.
  virtual Access write(Space space, uint64_t address,
                       std::span<const std::byte> bytes,
                       EventLoop::Callback done) = 0;
  // It met the exception whose frame is at `stack` (boot.h, kFaultPort), and
  // does not go on.  `who` goes in front of what is said of it, `more` behind.
  virtual void faulted(std::string who, uint64_t stack, std::string more) = 0;
  // It was asked to pause, and is out of the guest.
  virtual void parked() = 0;
  // It cannot go on, and does not.
  virtual void failed(std::string why) = 0;
};

// One vCPU and its thread.  Methods on the loop's thread, if not said
// otherwise.
class Vcpu {
 public:
  // `events` outlives it.
  static absl::StatusOr<std::unique_ptr<Vcpu>> create(const Kvm& kvm,
                                                      uint32_t index,
                                                      VcpuEvents& events);
  // Ends the thread; soon, whatever it does.
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  uint32_t index() const { return index_; }

  // Before start(), or on its thread, or while it is paused.
  absl::StatusOr<kvm_regs> registers() const;
  absl::Status set_registers(kvm_regs registers);
  absl::StatusOr<kvm_sregs> special_registers() const;
  absl::Status set_special_registers(kvm_sregs registers);
  // Runnable, though it may be no boot processor.
  absl::Status set_runnable();

  // Lets it run, on a thread of its own.  Once.
  void start();
  // Gets it out of the guest, between two instructions.  True: it is out.
  // False: parked() tells.  What it waits for (a pending write) goes on.
  bool pause();
  void resume();
  bool out_of_guest() const;
  // Whether it is paused between two instructions, so that its state is whole:
  // it is not if it waits for a write.  Waits for what its thread does at once.
  bool between_instructions() const;
  // For KVM's requests about it.
  FdRef file() const { return fd_; }
  // Gets it out for good.
  void stop();

  // Exits to this process.  Any thread.
  uint64_t exits() const { return exits_.load(std::memory_order_relaxed); }

 private:
  // Shared with the completion of a pending write, which may be left over.
  struct Gate {
    mutable absl::Mutex mutex;
    bool stopped ABSL_GUARDED_BY(mutex) = false;
    bool paused ABSL_GUARDED_BY(mutex) = false;
    bool waiting ABSL_GUARDED_BY(mutex) = false;  // For a write.
    bool inside ABSL_GUARDED_BY(mutex) = false;   // Beyond the gate.
    // It left within an instruction, which KVM ends when it is entered again.
    bool unfinished ABSL_GUARDED_BY(mutex) = false;

    // One that is paused ends its instruction, and is out again at once.
    bool may_pass() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return stopped || (!waiting && (!paused || unfinished));
    }
    bool rests() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return !inside && (stopped || !may_pass());
    }
  };

  Vcpu(uint32_t index, VcpuEvents& events)
      : index_(index), events_(events), gate_(std::make_shared<Gate>()) {}

  absl::Status map(size_t size);
  absl::Status let_signal_in();
  void kick();

  // On its thread.
  void run();
  bool pass_gate();
  // False: it cannot go on.
  bool run_once();
  bool interrupted(int error);
  bool exit_to_port();
  bool exit_to_memory();
  bool write(VcpuEvents::Space space, uint64_t address,
             std::span<const std::byte> bytes);
  bool nobody(VcpuEvents::Space space, uint64_t address, size_t size,
              bool write);
  bool fault();
  bool fail(std::string why);
  std::string describe_exit() const;

  const uint32_t index_;
  VcpuEvents& events_;
  UniqueFd fd_;
  kvm_run* run_ = nullptr;  // Mapped.
  size_t run_size_ = 0;
  std::shared_ptr<Gate> gate_;
  std::atomic<uint64_t> exits_{0};
  std::thread thread_;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_VCPU_H_
