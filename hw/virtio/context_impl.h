// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_CONTEXT_IMPL_H_
#define HW_VIRTIO_CONTEXT_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/address_space_impl.h"
#include "hw/virtio/memory_view.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/executor.h"
#include "vhostdev/memory.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"

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

  // The table for `policy`, made on first use.  Valid as long as the context.
  MemoryView& view(const MemoryPolicy& policy);

  void when_settled(Completion done);
  absl::Status run_until_settled(Duration timeout);
  absl::Status can_add(const MemorySection& section) const;
  uint64_t max_slots() const;
  uint64_t free_slots() const;
  size_t user_count() const;

  // MemoryListener, for a VMM's own address space and for `memory`.
  void region_add(const MemorySection& section) override;
  void region_del(const MemorySection& section) override;
  absl::Status commit() override;

  EventLoop& loop;
  Executor* const executor;

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
  void note_error(const absl::Status& status);
  void finish_if_settled();

  AddressSpace* const memory_;  // May be null.
  uint64_t seen_ = 0;           // Of its transactions.
  SectionTree own_sections_;    // Only without memory_, as the next two.
  std::vector<MemorySection> removed_;  // Collected since commit().
  std::vector<MemorySection> added_;

  std::vector<std::unique_ptr<MemoryView>> views_;  // One per policy: few.
  std::vector<User> users_;
  bool telling_ = false;

  absl::Status first_error_;  // Not reported to anybody yet.
  std::vector<Completion> waiting_;
  bool running_ = false;  // In run_until_settled.
  // Posted completions die with the context.
  std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);
};

}  // namespace vhost

#endif  // HW_VIRTIO_CONTEXT_IMPL_H_
