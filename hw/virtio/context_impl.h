// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_CONTEXT_IMPL_H_
#define HW_VIRTIO_CONTEXT_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/address_space_impl.h"
#include "hw/virtio/log_hint.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/executor.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_log.h"

namespace vhost {

// One device that is told of the guest's memory: VhostDev::Impl.  All calls
// come on the loop's thread.
class MemoryUser {
 public:
  virtual ~MemoryUser() = default;

  // In front of errors.
  virtual absl::string_view name() const = 0;
  // Constant while registered.
  virtual MemoryPolicy memory_policy() const = 0;
  // traits().max_memory_slots; may change with each Open.
  virtual uint64_t max_memory_slots() const = 0;

  // The table of this device's policy has a new generation; called from inside
  // the commit.  Checks the rings against view(memory_policy()) and, if the
  // device runs and no sequence is under way, begins to tell its back-end;
  // otherwise it only notes that there is something to tell.  Returns what is
  // known at once; later refusals go to Impl::user_settled.  Must not add or
  // remove users other than itself.
  virtual absl::Status memory_committed() = 0;

  // Whether the back-end has answered for the newest table, or need not be
  // told of it (the device does not run, or is broken).
  virtual bool memory_settled() const = 0;

  // Whether the back-end pins memory; constant while registered.
  virtual bool pins_memory() const { return false; }

  // Whether a back-end's log must be a memfd.
  virtual bool needs_shared_log() const { return false; }

  // The dirty log was turned on or off, or is another bitmap now.  If the
  // device runs and no sequence is under way it begins to tell its back-end,
  // otherwise that follows.  Returns what is known at once, such as
  // kUnimplemented; later refusals go to Impl::user_log_settled.  Must not add
  // or remove users other than itself.
  virtual absl::Status log_changed() { return absl::OkStatus(); }

  // Whether the back-end has answered for the log as it is now, or need not be
  // told of it.
  virtual bool log_settled() const { return true; }

  // As VhostOps::pump: lets the back-end work until something completed.
  virtual void pump(MonotonicTime deadline) = 0;
};

// `status` with "`name`: " in front, unless the device put it there itself.
absl::Status with_device_name(const absl::Status& status,
                              absl::string_view name);

// The devices of one VM and the tables made of its memory.
struct VhostContext::Impl final : public MemoryListener {
  // With `memory` the sections are read there; without, they are collected
  // from the listener's calls.
  Impl(EventLoop& event_loop, AddressSpace* memory, Executor* work_executor);
  ~Impl() override;

  // Registers `user` (not owned) until remove_user.
  // Errors: kResourceExhausted  the table has more entries than it has slots.
  //         kInvalidArgument    some section cannot be mapped by its policy.
  absl::Status add_user(MemoryUser* user);
  // Does nothing if it is not registered.  A settling that waited only for it
  // is over.
  void remove_user(MemoryUser* user);

  // `user` may have become settled: called whenever memory_settled() turned
  // true, with what became of the update.  An error that memory_committed()
  // returned need not be repeated here.
  void user_settled(MemoryUser* user, const absl::Status& status);
  // The same for the log.
  void user_log_settled(MemoryUser* user, const absl::Status& status);
  // Some device's log_settled() may have turned true by itself.
  void log_may_be_settled() { finish_if_settled(Topic::kLog); }

  // The table for `policy`, made on first use.  Valid as long as the context.
  MemoryView& view(const MemoryPolicy& policy);

  enum class Topic : uint8_t { kMemory, kLog };
  void when_settled(Topic topic, Completion done);
  absl::Status run_until_settled(Topic topic, Duration timeout);
  absl::Status can_add(const MemorySection& section) const;
  uint64_t max_slots() const;
  uint64_t free_slots() const;
  size_t user_count() const;

  // MemoryListener, for a VMM's own address space and for `memory`.
  void region_add(const MemorySection& section) override;
  void region_del(const MemorySection& section) override;
  absl::Status commit() override;
  absl::Status log_global_start() override;
  void log_global_stop() override;
  absl::Status log_sync(const MemorySection& section) override;
  absl::Status switch_log();

  EventLoop& loop;
  Executor* const executor;
  VhostLog log;
  DirtySink* dirty_sink = nullptr;
  LogHint log_hint;

  bool pins_memory() const { return pins_; }
  void when_pinning_changes(absl::AnyInvocable<void(bool)> told);

 private:
  struct User {
    MemoryUser* user = nullptr;  // Null: removed while users are told.
    MemoryView* view = nullptr;
    uint64_t told = 0;  // Generation.
  };

  // Applies what the listener collected to own_sections_; leaves the net
  // change in removed_ and added_.
  absl::Status take_collected();
  absl::Status follow(const SectionChange& change);
  absl::Status tell_users();
  static absl::Status tell(const User& entry, bool changed);
  // What the views know: without a transaction that is still open.
  std::vector<MemorySection> known_sections() const;
  // Makes the log's bitmap right for the memory and the devices as they are
  // now; whether it is another one then.
  absl::StatusOr<bool> fit_log();
  absl::Status tell_log(const MemoryUser* except = nullptr);
  // `user` joined while the log is on.
  void admit_to_log(const MemoryUser* user);

  // Who waits for all devices to answer.
  struct Settling {
    absl::Status first_error;  // Not reported to anybody yet.
    std::vector<Completion> waiting;
    bool running = false;  // In run_until_settled.
  };
  Settling& settling(Topic topic) {
    return topic == Topic::kLog ? log_settling_ : memory_settling_;
  }
  // One that has not answered, or null.
  MemoryUser* unsettled(Topic topic) const;
  void finish_if_settled();
  void finish_if_settled(Topic topic);

  void look_at_pinning();

  AddressSpace* const memory_;  // May be null.
  uint64_t seen_ = 0;           // Of its transactions.
  SectionTree own_sections_;    // Only without memory_, as the next two.
  std::vector<MemorySection> removed_;  // Collected since commit().
  std::vector<MemorySection> added_;

  std::vector<std::unique_ptr<MemoryView>> views_;  // One per policy: few.
  std::vector<User> users_;
  bool telling_ = false;

  bool pins_ = false;
  bool pins_told_ = false;  // What the VMM heard last.
  // Shared: it may destroy the context.
  std::shared_ptr<absl::AnyInvocable<void(bool)>> pinning_told_;

  Settling memory_settling_;
  Settling log_settling_;
  // Posted completions die with the context.
  std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
};

}  // namespace vhost

#endif  // HW_VIRTIO_CONTEXT_IMPL_H_
