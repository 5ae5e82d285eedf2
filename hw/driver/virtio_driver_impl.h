// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_VIRTIO_DRIVER_IMPL_H_
#define HW_DRIVER_VIRTIO_DRIVER_IMPL_H_

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "hw/driver/driver_queue.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// Every operation of the driver is one operation of the VhostDev with something
// done before it (`prepare_*`, which may refuse) and after it (`finish_*`); the
// blocking and the asynchronous forms share both.
struct VirtioDriver::Impl final : public VirtioDevice,
                                  public NotifierBinding,
                                  public BackendEvents {
  using Queues = std::vector<std::shared_ptr<DriverQueue>>;

  Impl(VhostContext& vhost_context, DmaMemory& dma_memory, Options driver);
  ~Impl() override;

  // -- Operations -----------------------------------------------------------

  // Wrong thread, another operation under way: refused.  Otherwise `name` is
  // under way until end().
  absl::Status begin(absl::string_view name);
  // What begin() began is over; `status` with its name in front.
  absl::Status end(const absl::Status& status);
  // The same without a word about it.
  void over();

  // The blocking and the asynchronous way through an operation.
  absl::Status run(absl::FunctionRef<void(Completion)> launch,
                   absl::FunctionRef<absl::Status(absl::Status)> finish,
                   Duration timeout);
  Completion then(absl::AnyInvocable<absl::Status(absl::Status)> finish,
                  Completion done);
  // `done`, later, with `status`.
  void post(Completion done, absl::Status status);

  absl::Status prepare_reset(FeatureSet wanted_features);
  void launch_reset(Completion done);
  absl::Status finish_reset(const absl::Status& status);
  absl::Status negotiate();
  // Of the bits that concern rings and transport, those that this driver can
  // do; all bits of the device's class are the caller's business.
  static FeatureSet supported_features();

  absl::Status prepare_start(const StartOptions& wanted);
  absl::Status count_queues(const StartOptions& wanted);
  absl::StatusOr<Queues> make_queues(const StartOptions& wanted);
  absl::Status finish_start(const absl::Status& status);

  absl::Status prepare_stop();
  // Whether nothing is in flight that could still complete.
  bool drained();
  void drain_here(MonotonicTime deadline);
  void drain_on_loop(MonotonicTime deadline, EventLoop::Callback then_what);
  void finish_stop(const absl::Status& status);

  absl::StatusOr<DriverState> save() const;
  absl::Status check_state(const DriverState& state) const;
  absl::Status restore(const DriverState& state);

  absl::Status check_config(uint32_t offset, size_t size, bool write) const;
  void read_config_again(uint32_t offset, std::span<std::byte> out,
                         uint32_t tries, Completion done);

  // Why nothing but a reset is accepted.
  absl::Status check_usable() const;

  // -- Queues ---------------------------------------------------------------

  Queues all_queues() const;
  std::shared_ptr<DriverQueue> find_queue(uint32_t index) const;
  void set_queues(Queues queues);
  // All or none.
  absl::Status close_queues();
  // Forgets the queues; what was in flight goes to last_stop.
  void drop_queues(bool quiet);
  void lose(const absl::Status& why);

  // -- VirtioDevice ---------------------------------------------------------

  uint32_t device_id() const override { return options.device_id; }
  VirtqueueConfig queue(QueueIndex vq) const override;

  // -- NotifierBinding ------------------------------------------------------

  absl::Status bind_kicks(std::span<const KickBinding> kicks) override;
  void unbind_kicks(std::span<const QueueIndex> indices) override;
  absl::Status bind_calls(std::span<const CallBinding> calls) override;
  void unbind_calls(std::span<const VectorIndex> vectors) override;
  // Nobody masks a vector of a driver that reads its notifier itself.
  void mask(VectorIndex) override {}
  void unmask(VectorIndex) override {}
  void raise(VectorIndex vector) override;
  NotifyMode kick_mode(QueueIndex) const override {
    return options.backend_polls ? NotifyMode::kPolling : NotifyMode::kFd;
  }
  NotifyMode call_mode(QueueIndex) const override {
    return options.no_call_notifiers ? NotifyMode::kPolling : NotifyMode::kFd;
  }

  // -- BackendEvents --------------------------------------------------------

  void config_changed() override;
  void vring_error(std::optional<QueueIndex> vq) override;
  void memory_refused(const absl::Status& why) override;
  void broken(const absl::Status& why) override;
  void reconnected() override;
  void needs_reset(const absl::Status& why) override;
  void gave_up(const absl::Status& why) override;
  void migration_blockers_changed() override;

  // -- A back-end that goes away and comes back ----------------------------

  void go_away();
  bool away() const;
  void come_back();
  void restart();
  void start_again(absl::Status status);
  void finish_restart(const absl::Status& status);
  void drop_restart();
  // The end of the back-end, and of trying to get another.
  void give_up();

  // -------------------------------------------------------------------------

  VhostContext& context;
  DmaMemory& memory;
  const Options options;
  std::unique_ptr<VhostDev> dev;
  // What posted closures hold weakly: they do nothing once the driver is gone.
  std::shared_ptr<Impl*> self;

  absl::string_view operation;  // Under way; empty: none.
  std::unique_ptr<EventLoop::Timer> drain_timer;
  EventLoop::Callback after_drain;

  uint8_t device_status = 0;
  FeatureSet wanted;
  Negotiated agreed;
  std::atomic<uint64_t> agreed_low = 0;  // agreed.features, for any thread.
  std::atomic<uint64_t> agreed_high = 0;
  Started counts;
  uint32_t indirect_entries = 0;  // Of the rings.
  Stopped stopped;
  uint32_t generation = 0;

  static constexpr absl::string_view kRestart = "restart";
  bool in_restart = false;     // A stop or reset begins in the middle of one.
  bool restart_due = false;    // As soon as nothing is in its way.
  bool restart_again = false;  // The one under way comes to nothing.
  uint64_t restarts = 0;       // The one under way; others are forgotten.
  // Why a back-end that had the rings may still use them: it was given up, and
  // nobody knows that it is gone.  OK: there is none.
  absl::Status still_used;
  // Since when the back-end is there, in nanoseconds of the steady clock; for
  // any thread.
  static constexpr int64_t kAway = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> there_since = 0;

  mutable absl::Mutex mutex;
  Queues queues ABSL_GUARDED_BY(mutex);
  bool open_for_use ABSL_GUARDED_BY(mutex) = false;  // DRIVER_OK.
};

}  // namespace vhost

#endif  // HW_DRIVER_VIRTIO_DRIVER_IMPL_H_
