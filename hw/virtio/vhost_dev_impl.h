// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_VHOST_DEV_IMPL_H_
#define HW_VIRTIO_VHOST_DEV_IMPL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hw/virtio/applied_memory.h"
#include "hw/virtio/context_impl.h"
#include "hw/virtio/device_parts.h"
#include "hw/virtio/event_queue.h"
#include "hw/virtio/executor_ops.h"
#include "hw/virtio/guarded_services.h"
#include "hw/virtio/interrupts.h"
#include "hw/virtio/lifecycle.h"
#include "hw/virtio/memory_view.h"
#include "hw/virtio/reconnect_schedule.h"
#include "hw/virtio/sequence_runner.h"
#include "hw/virtio/state_mover.h"
#include "hw/virtio/task.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/state_channel.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {

class LogBitmap;

// The inside of a VhostDev.  One class, because all of it is about one state;
// several files, because that state has several concerns:
//   vhost_dev.cc             the public face; birth and death
//   vhost_dev_operations.cc  one operation at a time; run, cancel, broken
//   vhost_dev_init.cc        connecting; what can block a migration
//   vhost_dev_reconnect.cc   a lost back-end, and getting it back
//   vhost_dev_inflight.cc    the area that notes requests in flight
//   vhost_dev_start.cc       start and its roll-back; single queues
//   vhost_dev_plan.cc        what a start will tell of each queue
//   vhost_dev_stop.cc        stop, force_stop, reset; single queues
//   vhost_dev_position.cc    where rings stand: drained, lost, set by hand
//   vhost_dev_memory.cc      memory commits
//   vhost_dev_log.cc         the dirty log
//   vhost_dev_config.cc      the configuration space and its interrupt
//   vhost_dev_features.cc    features
//   vhost_dev_record.cc      the flight record
//   vhost_dev_enable.cc      queues enabled and disabled
//   vhost_dev_masks.cc       what of masking concerns the back-end
//   vhost_dev_messages.cc    messages of one kind of device only
//   vhost_dev_state.cc       the back-end's own state, saved and loaded
//   vhost_dev_iommu.cc       what stands behind the addresses of rings
//   vhost_dev_in_band.cc     kicks and calls without descriptors
//   vhost_dev_doorbells.cc   kicks that do not pass the VMM
// What it is made of: device_parts.h.
//
// Shared: posted closures hold it weakly, and whoever may be destroyed by what
// it calls holds it for that long.  `dead_` says that the VhostDev is gone; the
// VMM's objects may be too, and are not touched any more.
class VhostDev::Impl final : public BackendSink,
                             public MemoryUser,
                             public std::enable_shared_from_this<Impl> {
 public:
  Impl(VhostContext& context, std::unique_ptr<VhostOps> ops,
       VirtioDevice& device, NotifierBinding& notifiers, BackendEvents& events,
       BackendServices* services, Options options);
  ~Impl() override;

  // After construction: what needs a weak pointer to this.
  void attach();
  // The VhostDev is destroyed.
  void shut_down();

  // -- VhostDev's methods (vhost_dev.h) ------------------------------------
  void init(Completion done);
  void start(Completion done);
  void stop(StopReason reason, Completion done);
  absl::Status check_drained();
  absl::Status kick();
  void force_stop(Completion done);
  void reset(Completion done);
  void start_queue(QueueIndex vq, Completion done);
  void stop_queue(QueueIndex vq, Completion done);
  void set_queues_enabled(std::span<const QueueIndex> queues, bool enabled,
                          Completion done);
  void get_config(uint32_t offset, std::span<std::byte> out, Completion done);
  void set_config(uint32_t offset, std::span<const std::byte> bytes,
                  ConfigWriter writer, Completion done);
  void set_mtu(uint16_t mtu, Completion done);
  void send_rarp(std::array<uint8_t, 6> mac, Completion done);
  void set_guest_cid(uint64_t cid, Completion done);
  void reset_owner(Completion done);
  void save_state(StateSink& sink, const StateLimits& limits, Completion done);
  void load_state(StateSource& source, const StateLimits& limits,
                  Completion done);
  void abandon_state();
  void invalidate_iotlb(uint64_t iova, uint64_t size, Completion done);
  void get_inflight(uint16_t queue_size, Completion done);
  const InflightArea& inflight() const { return inflight_; }
  absl::Status set_inflight(InflightArea area);
  absl::Status reset_inflight();
  absl::Status free_inflight();
  ReconnectState reconnect_state() const { return schedule_.state(); }
  void reconnect_now();
  void stop_reconnecting();
  void cancel();
  absl::Status run(absl::FunctionRef<void(Completion)> operation,
                   Duration timeout);
  FeatureSet get_features(FeatureSet table, FeatureSet features) const;
  absl::Status ack_features(FeatureSet table, FeatureSet features);
  FeatureSet acked_features() const { return acked_; }
  void clear_acked_features();
  void mask(QueueIndex vq);
  void unmask(QueueIndex vq);
  bool pending(QueueIndex vq);
  MaskMode mask_mode() const;
  void mask_config();
  void unmask_config();
  bool config_pending();
  // As the VMM is told: what an attempt to reconnect goes through is its own.
  DeviceState told_state() const {
    return attempting() ? DeviceState::kBroken : state();
  }
  DeviceState state() const { return life_.state(); }
  const absl::Status& broken_status() const { return broken_status_; }
  const BackendTraits& traits() const { return ops_->traits(); }
  BackendCounters counters() const { return ops_->counters(); }
  FlightRecord flight_record();
  VringBase queue_base(QueueIndex vq) const;
  absl::Status set_queue_base(QueueIndex vq, VringBase base);
  bool queue_started(QueueIndex vq) const;
  const EventNotifier* kick_notifier(QueueIndex vq) const;
  const EventNotifier* call_notifier(QueueIndex vq) const;
  bool logging() const { return log_ != nullptr; }
  std::vector<std::string> migration_blockers() const;

  // -- BackendSink ---------------------------------------------------------
  void on_config_changed() override;
  absl::Status on_vring_call(BackendQueue vq) override;
  absl::Status on_vring_error(BackendQueue vq) override;
  void on_lost(const absl::Status& why) override;
  BackendServices& services() override { return services_; }

  // -- MemoryUser ----------------------------------------------------------
  absl::string_view name() const override { return options_.name; }
  MemoryPolicy memory_policy() const override;
  uint64_t max_memory_slots() const override;
  absl::Status memory_committed() override;
  bool memory_settled() const override;
  bool needs_shared_log() const override { return traits().needs_shared_log; }
  bool pins_memory() const override { return traits().pins_memory; }
  absl::Status log_changed() override;
  bool log_settled() const override;
  void pump(MonotonicTime deadline) override;

 private:
  // -- Operations (vhost_dev_operations.cc) --------------------------------

  static constexpr absl::string_view kInit = "init";
  using Operation = DeviceOperation;
  using Preempts = Operation::Preempts;
  using Attempting = Operation::Attempting;
  // kNobody: the VMM wanted it, or an attempt to reconnect failed.
  enum class Tell : uint8_t { kVmm, kNobody };

  void begin(Operation operation);
  void launch(Operation operation);
  void sequence_ended(absl::Status status);
  void go_on();
  // A verb beside whatever operation is under way (UpdateIotlb may be).
  bool waited_for(uint64_t last) const;
  absl::string_view busy_with() const;
  absl::Status broken_error() const;
  void submit_beside(Verb verb, Operation operation);
  void beside_ended(uint64_t serial, const BatchResult& result);
  void complete(Operation operation, const absl::Status& status);
  enum class Reconnecting : uint8_t { kEnds, kGoesOn };
  void end_operations(const absl::Status& why, Tell tell, Reconnecting then);
  // Runs `work` from the loop, if the device is still there.
  void defer(absl::AnyInvocable<void(Impl&)> work);

  absl::Status run_until(const bool& over, Duration timeout);
  void pump_once(MonotonicTime deadline);
  void run_collected();

  MonotonicTime after(Duration duration) const;
  // Whether the back-end is on the stack and must not be called.
  // Or somebody is whom the VMM gave, and who expects to see it again.
  bool inside_backend() const {
    return in_sink_ > 0 || services_.answering() ||
           (mover_ != nullptr && mover_->calling_out());
  }

  // The back-end is gone, or what it did is not known: closes it, keeps where
  // rings stand and tells the VMM once.  Idempotent.
  void become_broken(const absl::Status& why);
  void note_broken(const absl::Status& cause, Tell tell);
  // What of a loss calls the VMM; from the loop, and before it matters.
  void unbind_everything();
  // The status of `result`; moves to kBroken if the fate of a step is unknown.
  absl::Status judge(const BatchResult& result);
  // Why a sequence must not go on, if so.
  absl::Status interrupted() const;

  // -- Queues --------------------------------------------------------------

  using Queue = DeviceQueue;
  using Position = Queue::Position;

  Queue* find(QueueIndex vq);
  const Queue* find(QueueIndex vq) const;
  Queue* find(BackendQueue vq);
  std::vector<QueueIndex> started_queues() const;
  RingFormat ring_format() const;
  MemoryView& view();

  // -- Sequences.  Parameters by value (task.h). ---------------------------

  Task init_task();
  Task connect(MonotonicTime deadline);
  absl::Status check_backend() const;
  absl::Status join();
  void update_blockers();

  using Log = std::shared_ptr<LogBitmap>;
  using Planned = PlannedQueue;
  using Attempt = StartAttempt;

  absl::Status plan(std::vector<QueueIndex> queues);
  absl::Status plan_queue(Queue& queue, const VirtqueueConfig& config);
  absl::Status place(Planned& planned, const VirtqueueConfig& config);
  absl::Status place_again();
  absl::Status check_slots();
  std::vector<Interrupts::Use> planned_uses() const;
  void name_notifiers();
  absl::Status make_error_notifier();
  absl::Status bind_planned();
  void unbind(std::vector<QueueIndex> queues);
  Go go_verb();
  Configure configure_verb(bool with_memory);
  FeatureSet wire_features(bool log) const;
  void note_kicked(const BatchResult& result);
  absl::Status nudge();

  enum class Scope : uint8_t { kDevice, kQueue };
  Task start_task();
  Task start_queue_task(QueueIndex vq);
  Task bring_up(Scope scope, MonotonicTime deadline);
  Task configure_and_go(Scope scope, MonotonicTime deadline);
  Task roll_back(Scope scope);

  Task stop_task(StopReason reason);
  Task stop_queue_task(QueueIndex vq);
  Task reset_task();
  Task take_back(std::vector<QueueIndex> queues, MonotonicTime deadline);
  Task put_to_rest();
  Task drain(std::vector<QueueIndex> queues, MonotonicTime deadline);
  absl::Status check_positions(const std::vector<QueueIndex>& queues);
  void forget_positions();

  absl::Status note_harvest(const std::vector<QueueIndex>& queues,
                            const BatchResult& result);
  absl::Status check_drained(const std::vector<QueueIndex>& queues);
  absl::Status check_drained(Queue& queue);
  uint32_t unfinished_requests(const Queue& queue);
  bool may_stay_in_flight(const Queue& queue) const;
  bool has_area_of(const Queue& queue) const;
  absl::StatusOr<uint16_t> ring_index(const RingPart& part, bool big_endian,
                                      const std::vector<UpdateIotlb>& iotlb);
  std::optional<uint64_t> find_told_word(const RingPart& word,
                                         const std::vector<UpdateIotlb>& iotlb);
  absl::StatusOr<uint64_t> find_ring_word(
      const RingPart& word, const std::vector<UpdateIotlb>& iotlb);
  void keep_positions();
  void lose_position(Queue& queue);
  absl::StatusOr<VringBase> resolve_position(const Queue& queue,
                                             const Planned& planned);

  // -- The flight record ---------------------------------------------------

  std::optional<uint16_t> look_at_index(const Queue& queue,
                                        const RingPart& part);
  RingRecord ring_record(const Queue& queue);
  // A failure with the record of this moment, unless it has one.
  absl::Status with_record(const absl::Status& status);

  Task enable_task(std::vector<QueueIndex> queues, bool enabled);
  void note_enabled(const SetQueuesEnabled& asked, const BatchResult& result);

  // -- A lost back-end -----------------------------------------------------

  bool attempting() const {
    return current_.has_value() && current_->reconnects;
  }
  void begin_beside_attempt(Operation operation);
  void note_for_later(absl::string_view name, const absl::Status& status,
                      Completion done);
  bool hold_start(Operation& operation);
  void start_kept_waiting(Operation start);
  void forget_start(const absl::Status& why);
  void end_reconnecting(const absl::Status& why);
  void await_peer();
  void reconnect_if_due(MonotonicTime now);
  void launch_attempt();
  Task attempt_task();
  Task tell_again();
  Task bring_back();
  Task catch_up_enabled();
  absl::Status check_configured() const;
  void attempt_ended(absl::Status status);
  void attempt_succeeded();
  void attempt_failed(const absl::Status& why, bool interrupted);
  void end_attempt();
  void end_attempt_soon();

  // -- The inflight area ---------------------------------------------------

  uint16_t inflight_queues() const;
  uint16_t inflight_room() const;
  absl::Status check_inflight_room() const;
  bool inflight_due() const;
  Task get_inflight_task(uint16_t queue_size);
  Task obtain_inflight(uint16_t queue_size, MonotonicTime deadline);
  absl::Status check_inflight(const InflightArea& area) const;
  absl::Status inflight_changeable() const;
  // Empty: the area says nothing of the ring.
  absl::StatusOr<std::optional<VringBase>> look_at_area(const Queue& queue,
                                                        const Planned& planned);
  absl::StatusOr<uint16_t> descriptor_flags(const Planned& planned,
                                            uint16_t index);
  void forget_inflight();

  // -- Memory --------------------------------------------------------------

  Task memory_task();
  absl::Status check_rings();
  absl::Status check_rings_told(const MemorySnapshot& table) const;
  // Where rings lie that run, or are about to.
  std::vector<uint64_t> ring_addresses() const;
  MemoryDiff memory_diff();
  bool backend_has_memory() const;
  void launch_memory_update();
  void abandon_memory_update(const absl::Status& why);

  // -- The dirty log -------------------------------------------------------

  absl::Status can_log() const;
  LogArea area_of(const LogBitmap& log) const;
  Log wanted_log() const;
  Log log_for_start();
  bool log_due() const;
  void launch_log_update();
  void abandon_log_update(const absl::Status& why);
  Task log_task();
  Task switch_log_on(Log log, MonotonicTime deadline);
  Task switch_log_off(MonotonicTime deadline);
  Task replace_log(Log next, MonotonicTime deadline);
  Task make_room_in_log();
  Task clear_log_marks(bool features, MonotonicTime deadline);
  SetRingLogging ring_logging(bool on) const;
  Verb same_again() const;
  void note_ring_logging(const SetRingLogging& asked,
                         const BatchResult& result);
  void log_refused(const absl::Status& why);
  void log_started();
  void keep_past_log(Log log);
  void let_go_of_logs();

  // -- Behind an IOMMU -----------------------------------------------------

  bool behind_iommu() const;
  bool takes_iommu() const;
  void look_at_blockers();
  void drop_translations(uint64_t iova, uint64_t size);
  void forget_translation(uint64_t iova, uint64_t size, Operation operation);

  // -- In-band notifications -----------------------------------------------

  NotifyMode kick_mode(QueueIndex vq) const;
  NotifyMode call_mode(QueueIndex vq) const;
  void watch_kicks(Queue& queue);
  void note_kick(QueueIndex vq);
  bool kicks_due() const;
  void launch_kicks();
  Task kick_task();

  // -- Doorbells (host notifiers) ------------------------------------------

  Task hand_out_doorbells(MonotonicTime deadline);

  // -- Configuration -------------------------------------------------------

  Task get_config_task(uint32_t offset, std::byte* out, size_t size);
  Task set_config_task(uint32_t offset, std::vector<std::byte> bytes,
                       ConfigWriter writer);
  absl::Status check_config_range(uint64_t offset, uint64_t size) const;
  void remember_config(SetConfig written);
  absl::Status make_config_notifier();
  void config_signalled();

  // -- Single messages -----------------------------------------------------

  Task message_task(Verb verb);
  Task set_mtu_task(uint16_t mtu);
  Task set_guest_cid_task(uint64_t cid);
  Task reset_owner_task();

  // -- State of the back-end ------------------------------------------------

  bool moving_state() const {
    return current_.has_value() && current_->moves_state;
  }
  void look_at_move();
  void end_move_if_due();
  absl::Status move_interrupted() const;
  Task open_state_channel(StateDirection direction);
  Task check_state(Duration timeout);
  Task save_state_task(StateSink* sink, StateLimits limits);
  Task load_state_task(StateSource* source, StateLimits limits);
  void move_ended();

  // -- Masks ---------------------------------------------------------------

  void post_call_switch();
  void switch_calls();
  void calls_switched(std::vector<Interrupts::Switch> switches,
                      const BatchResult& result);

  // ------------------------------------------------------------------------

  ExecutorOps* worker_ = nullptr;        // ops_, if its verbs run on one.
  const std::unique_ptr<VhostOps> ops_;  // Destroyed last.
  VhostContext& context_;
  EventLoop& loop_;
  VirtioDevice& device_;
  NotifierBinding& binding_;
  const Options options_;

  EventQueue events_;
  GuardedServices services_;
  Interrupts interrupts_;
  Lifecycle life_;
  absl::Status broken_status_;
  bool dead_ = false;
  int in_sink_ = 0;

  std::optional<Operation> current_;
  std::optional<Operation> next_;  // Waits for the current one to end.
  bool preempted_ = false;         // The current one is to end soon.
  uint64_t serials_ = 0;
  std::list<BesideOperation> beside_;
  bool running_ = false;  // Inside run().
  std::deque<CollectedCompletion> collected_;

  ReconnectSchedule schedule_;
  bool wants_run_ = false;  // Rings are to run when it is back.
  std::optional<Operation> waiting_start_;
  std::unique_ptr<EventLoop::Timer> reconnect_timer_;
  std::unique_ptr<PeerWatch> peer_watch_;
  MonotonicTime real_attempt_at_;     // The loop of a test may stand still.
  bool cannot_reopen_ = false;        // The last Open said so.
  absl::Status attempt_lost_;         // Why the attempt's connection ended.
  absl::Status start_refused_;        // By us; no other attempt cures it.
  std::optional<uint64_t> told_cid_;  // For the next connection.
  std::optional<uint16_t> told_mtu_;
  std::vector<SetConfig> told_config_;  // The guest's writes.

  std::vector<std::byte> lost_config_;  // As the lost back-end had it.

  InflightArea inflight_;
  bool inflight_unwanted_ = false;  // The back-end said so.

  std::vector<Queue> queues_;  // The back-end's, sorted by device queue.
  Attempt attempt_;
  FeatureSet acked_;
  uint64_t promised_slots_ = 0;  // What earlier connections offered.
  std::vector<std::string> blockers_;
  std::unique_ptr<EventNotifier> error_;
  std::unique_ptr<EventLoop::Watch> error_watch_;

  bool iotlb_told_ = false;  // The back-end may have translations.

  AppliedMemory applied_;
  bool memory_changed_ = false;  // Recorded while a sequence runs.
  absl::Status memory_status_;   // Of the last update.

  Log log_;                     // Where the running rings log; null: nowhere.
  std::vector<Log> past_logs_;  // Where the back-end may still write late.
  absl::Status log_refused_;    // Why it runs without, although the log is on.
  absl::Status log_status_;     // Of the last update.

  std::vector<std::byte> config_;  // Empty: not known.
  uint64_t config_changes_ = 0;
  std::unique_ptr<EventNotifier> config_call_;
  std::unique_ptr<EventLoop::Watch> config_watch_;
  bool config_masked_ = false;
  bool config_held_ = false;  // Signalled while masked.

  std::unique_ptr<StateMover> mover_;  // Of the state that moves.
  StateChannel state_channel_;         // Until it has it.
  bool state_asked_ = false;
  bool state_abandoned_ = false;
  std::vector<HeldInvalidation> held_invalidations_;  // Until the move is over.

  bool backend_masks_ = true;  // Until it refuses.
  bool switching_ = false;
  Pending call_switch_;

  SequenceRunner runner_;  // Last: frames use all of the above.
};

}  // namespace vhost

#endif  // HW_VIRTIO_VHOST_DEV_IMPL_H_
