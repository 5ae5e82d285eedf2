// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_KVM_TINY_GUEST_H_
#define TESTS_KVM_TINY_GUEST_H_

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/memory.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A real virtual machine of KVM with one virtual CPU, an interrupt controller
// and a guest of a few dozen instructions, in 64-bit user mode, that either
// rings doorbells or counts interrupts.
//
// The guest's interrupt handler copies what tell() wrote last, like a driver
// that looks at its rings: an interrupt was lost if told() stays behind.
class TinyGuest {
 public:
  static constexpr uint64_t kRamSize = 2 << 20;  // Bytes, at 0.
  static constexpr uint64_t kDoorbell = 0xd0000050;
  static constexpr uint32_t kGsi = 5;
  // The guest leaves the rest of its memory alone.
  static constexpr uint64_t kFreeGpa = 0x100000;

  // `ram` is kRamSize bytes of a device's guest memory, or the machine's own.
  // Errors: kUnavailable  there is no /dev/kvm here, or none for us.
  static absl::StatusOr<std::unique_ptr<TinyGuest>> create(
      std::shared_ptr<MemoryRegion> ram = nullptr);
  // Ends the guest.
  ~TinyGuest();
  TinyGuest(const TinyGuest&) = delete;
  TinyGuest& operator=(const TinyGuest&) = delete;

  FdRef vm() const { return vm_; }

  // Writes 0, 1, ... `values` - 1 to the doorbell, `rounds` times.
  absl::Status ring(uint32_t values, uint32_t rounds);
  // Takes interrupts until end(); does on return.
  absl::Status wait_for_interrupts();
  // Waits until the guest is done, and says whether that was well.  Of one that
  // waits for interrupts: makes it so.
  absl::Status end();

  // What the next interrupt is about.
  void tell(uint32_t what);
  // What the last one was about.
  uint32_t told() const;
  // Waits for told() to be `what`; false: it is not after a minute.
  bool hears(uint32_t what) const;
  uint32_t interrupts() const;

  // Writes to the doorbell that came to the VMM.
  std::vector<uint32_t> writes() const;
  // How often the guest left to the VMM until it was done.
  uint64_t exits() const;

 private:
  struct Registers {
    uint64_t rip = 0;
    uint32_t values = 0;
    uint32_t rounds = 0;
  };

  explicit TinyGuest(std::shared_ptr<MemoryRegion> ram);
  absl::Status set_up();
  absl::Status set_up_cpu();
  void load(uint64_t gpa, std::span<const uint8_t> code);
  void write_tables();
  absl::Status start(Registers registers);
  absl::Status run();
  // Null: the guest is done.
  std::optional<absl::Status> handle_exit();
  uint32_t& word(uint64_t gpa) const;
  // Waits for a word of the guest's; false: it is not so after a minute.
  bool becomes(uint64_t gpa, uint32_t value) const;

  std::shared_ptr<MemoryRegion> ram_;
  UniqueFd kvm_;
  UniqueFd vm_;
  UniqueFd cpu_;
  kvm_run* run_ = nullptr;
  size_t run_size_ = 0;
  std::thread thread_;

  mutable absl::Mutex mutex_;
  absl::Status result_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> writes_ ABSL_GUARDED_BY(mutex_);
  uint64_t exits_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace vhost::testing

#endif  // TESTS_KVM_TINY_GUEST_H_
