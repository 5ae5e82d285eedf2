// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_SOURCE_H_
#define MIGRATION_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "migration/channel.h"
#include "migration/dirty_tracker.h"
#include "migration/progress_board.h"
#include "migration/ram_sender.h"
#include "migration/side.h"
#include "migration/stream_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"
#include "vhostdev/request_drain.h"

namespace vhost {

// The state machine of a source: MigrationPhase is its state, and what each
// phase waits for is either the channel or `outstanding_`, the operations of
// VMM and devices that were begun and are not over.  However it fails, nothing
// is undone before these are over.
//
// What it calls may call back at once; so it counts first, and looks where it
// stands after.
class MigrationSource::Impl final
    : public MigrationSide<MigrationSource::Impl> {
 public:
  enum class To : uint8_t { kHost, kFile };

  Impl(EventLoop& loop, VhostContext& context, MigrationVmm& vmm,
       const Options& options);

  void start(UniqueFd channel, To to, Completion done);
  absl::Status cancel();
  void take_back(Completion done);
  MigrationProgress progress() const { return board_.snapshot(); }
  // The VMM is being ended.
  void drop();

 private:
  friend MigrationSide<Impl>;
  using Phase = MigrationPhase;
  using Outcome = MigrationOutcome;

  struct Device {
    MigrationDevice* device = nullptr;
    DeviceManifest manifest;
    bool to_start = false;  // It ran, and was asked to stop.
    std::vector<VringBase> bases;
    std::vector<std::byte> config;
    uint64_t inflight_at = 0;  // Bytes of the area appended so far.
    bool inflight_due = false;
    // Shared with the save that is under way.
    std::shared_ptr<StreamStateSink> sink;
    bool saving = false;
  };

  // One of what after() counts is over.  False: the migration fails, go no
  // further.
  bool go_on();

  // source.cc: from S1 on, and what every phase needs.
  absl::Status begin(UniqueFd channel);
  absl::Status open_channel(UniqueFd channel);
  absl::Status send_manifest();
  void manifest_answered(const StreamRecord& record, absl::Status& status);
  bool fill();
  absl::Status take_record(const StreamRecord& record);
  void sent();
  absl::Status unexpected(const StreamRecord& record) const;
  void report();

  // source_precopy.cc: S2 to S4.
  void log_on();
  void logged(absl::Status status);
  absl::StatusOr<bool> fill_ram();
  absl::Status round_over();
  absl::Status refresh_ram();
  void measure();
  Duration predicted() const;
  void switchover();

  // source_stop.cc: S5 and S6.
  void pause();
  void guest_paused(absl::Status status);
  void drain_requests();
  void requests_drained(absl::Status status);
  void stop_devices();
  void device_stopped(size_t index, absl::Status status);
  void all_stopped();
  absl::Status harvest();
  absl::StatusOr<bool> fill_tail();

  // source_devices.cc: S7.
  void save_devices();
  void save_device(size_t index);
  absl::StatusOr<DeviceCore> core_of(Device& entry);
  void config_read(size_t index, absl::Status status);
  void save_states_if_due();
  void save_state(size_t index);
  std::shared_ptr<StreamStateSink> make_sink(size_t index);
  void state_saved(size_t index, absl::Status status);
  void close_sinks(const absl::Status& why);
  absl::StatusOr<bool> fill_inflight();
  absl::Status append_inflight(Device& entry, uint32_t number);
  void device_saved();
  absl::Status save_guest();

  // source_end.cc: S8, and the way back.
  absl::Status commit();
  bool commit_is_out() const;
  void moved();
  void fail(const absl::Status& why);
  void lost_answer(const absl::Status& why);
  void go_back_if_possible();
  void restart(size_t index);
  void reconnected(size_t index, absl::Status status);
  void restarted(size_t index, absl::Status status);
  void all_restarted();
  void guest_resumed(absl::Status status);
  void log_off(absl::Status status);
  void finish(absl::Status status, Outcome outcome);

  VhostContext& context_;
  MigrationVmm& vmm_;
  const Options options_;
  ProgressBoard board_;

  // Of the migration under way.
  bool busy_ = false;
  To to_ = To::kHost;
  Completion done_;
  absl::Status error_;  // Why it is undone.
  Outcome outcome_ = Outcome::kNone;
  std::unique_ptr<Channel> channel_;
  std::unique_ptr<DirtyTracker> tracker_;
  std::unique_ptr<RamSender> ram_;
  std::unique_ptr<RamHasher> hasher_;
  std::vector<Device> devices_;
  MonotonicTime pause_end_;
  std::unique_ptr<RequestDrain> drain_;  // Between guest and devices.
  size_t to_describe_ = 0;  // Devices, of which all but the state is to come.
  size_t to_save_ = 0;      // Devices.
  bool paused_ = false;
  std::optional<uint64_t> commit_end_;  // Where in the stream it ends.

  // Of the present round.
  uint32_t rounds_ = 0;
  MonotonicTime round_began_;
  uint64_t sent_before_ = 0;
  uint64_t moved_before_ = 0;
  std::vector<DirtyTracker::Told> told_before_;
  uint64_t bandwidth_ = 0;  // Bytes per second; 0: not known yet.
};

}  // namespace vhost

#endif  // MIGRATION_SOURCE_H_
