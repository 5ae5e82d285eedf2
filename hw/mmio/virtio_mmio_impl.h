// SPDX-License-Identifier: Apache-2.0
#ifndef HW_MMIO_VIRTIO_MMIO_IMPL_H_
#define HW_MMIO_VIRTIO_MMIO_IMPL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "hw/mmio/mmio_registers.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost {

// The registers behind a lock, and what takes time: guests' writes and the
// VMM's requests, one at a time, each kind in the order it came.
//
//   a reset    goes first; what the guest asked for before it is moot, and
//              dropped
//   the VMM's  pause, resume and configuration reads go before the guest's
//   paused     the guest's wait, except for resets
//
// A reset and a pause also end a start or a resume under way, which may wait
// for a back-end that never comes: the start is asked for again by resume.
//
// Nothing is called while the lock is held.  Whatever is called may destroy the
// transport: `dead_` says so afterwards.
class VirtioMmio::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(EventLoop& loop, Options options);

  // Any thread.
  void read(uint64_t offset, std::span<std::byte> out);
  Access write(uint64_t offset, std::span<const std::byte> bytes,
               EventLoop::Callback done);
  uint8_t status() const;
  bool live() const;
  FeatureSet accepted() const;
  Counters counters() const;
  VirtqueueConfig queue(QueueIndex vq) const;
  uint32_t device_id() const { return options_.device_id; }

  // Loop thread.
  void end() { dead_ = true; }
  absl::Status offer(FeatureSet features);
  void attach(TransportOperations* operations);
  void refresh_config(Completion done);
  void pause(Completion done);
  void resume(Completion done);
  void release_reset();
  absl::StatusOr<State> save() const;
  absl::Status load(const State& state);

  void set_reconnects(bool reconnects) { reconnects_ = reconnects; }
  void config_changed();
  void broken(const absl::Status& why);
  void reconnected();
  void needs_reset(const absl::Status& why);
  void gave_up(const absl::Status& why);
  BackendEvents* events() { return options_.events; }

 private:
  enum class Work : uint8_t {
    kStart,
    kReset,
    kStartQueue,
    kStopQueue,
    kWriteConfig,
    kRefresh,
    kConfigChanged,
    kPause,
    kResume,
  };
  struct Operation {
    Work work;
    MmioAction action = {};
    // Pending writes that it ends; a reset may have several.
    std::vector<EventLoop::Callback> writes = {};
    Completion done = {};  // The VMM's.
    uint64_t serial = 0;
    // kWriteConfig: written, and read back now.
    bool reads_back = false;
    bool ended_early = false;  // By a reset or a pause.
    // Its answer, once there is one.
    std::optional<absl::Status> result = {};
  };
  using Operations = std::list<Operation>;
  using Callbacks = std::vector<EventLoop::Callback>;

  static Work work_of(const MmioAction& action);
  static bool is_guests(Work work);
  static std::string name_of(const Operation& operation);
  static std::deque<Operation>::iterator find(std::deque<Operation>& operations,
                                              bool (*wanted)(Work));

  // mmio_operations.cc: what is done when, and asked of whom.
  void push(Operation operation);
  void advance_soon();
  void advance();
  Callbacks join_resets() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Operations take_next(Callbacks& moot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool may_begin(Work work) const;
  Operation* find_begun(Work work);
  void launch(Operation& operation);
  void ask(Operation& operation, TransportOperations& operations);
  void read_config(Operation& operation, TransportOperations& operations);
  Completion answer_to(const Operation& operation);

  // mmio_answers.cc: what follows from an answer.
  void answered(uint64_t serial, absl::Status status);
  void finish(Operations::iterator at);
  bool read_back(Operation& write);
  bool looks_again(const absl::Status& status);
  bool note_outcome(const Operation& over);
  bool reset_is_over(Operation& reset);
  void hold_reset(Operation& reset);
  void ask_reset_again();
  void fail();
  // Whether the transport is still there afterwards.
  bool interrupt();
  bool report(const absl::Status& why);
  bool run_all(Callbacks callbacks);

  EventLoop& loop_;
  Options options_;

  mutable absl::Mutex mutex_;
  MmioRegisters registers_ ABSL_GUARDED_BY(mutex_);
  std::deque<Operation> waiting_ ABSL_GUARDED_BY(mutex_);
  TransportOperations* operations_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Counters counters_ ABSL_GUARDED_BY(mutex_);
  uint64_t serials_ ABSL_GUARDED_BY(mutex_) = 0;

  // Loop thread only.
  Operations begun_;
  // What read_config writes to; its completion keeps it too.
  std::shared_ptr<std::vector<std::byte>> fresh_config_;
  std::unique_ptr<EventLoop::Timer> reset_timer_;
  std::unique_ptr<EventLoop::Timer> config_timer_;
  // Why the reset in begun_ waits for reset_timer_; OK: it does not.
  absl::Status held_;
  bool hold_reported_ = false;
  bool reset_released_ = false;
  bool paused_ = false;
  bool reconnects_ = false;
  bool dead_ = false;
};

}  // namespace vhost

#endif  // HW_MMIO_VIRTIO_MMIO_IMPL_H_
