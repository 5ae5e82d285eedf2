// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_DESTINATION_H_
#define MIGRATION_DESTINATION_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "migration/channel.h"
#include "migration/progress_board.h"
#include "migration/side.h"
#include "migration/stream_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"

namespace vhost {

// The state machine of a destination; built as MigrationSource::Impl is.  What
// the source says is checked before anything is done with it, and nothing runs
// before the commit.
class MigrationDestination::Impl final
    : public MigrationSide<MigrationDestination::Impl> {
 public:
  enum class From : uint8_t { kHost, kFile };

  Impl(EventLoop& loop, VhostContext& context, MigrationVmm& vmm,
       const Options& options);

  void start(UniqueFd channel, From from, Completion done);
  absl::Status cancel();
  void take_over(Completion done);
  MigrationProgress progress() const { return board_.snapshot(); }
  void drop();

 private:
  friend MigrationSide<Impl>;
  using Phase = MigrationPhase;
  using Outcome = MigrationOutcome;

  struct Device {
    MigrationDevice* device = nullptr;
    DeviceManifest manifest;  // This end's.
    bool connecting = false;
    std::optional<DeviceCore> core;
    bool has_config = false;
    std::vector<std::byte> config;      // The source's.
    std::vector<std::byte> own_config;  // The back-end's.
    bool config_differs = false;
    std::optional<InflightLayout> layout;
    std::optional<InflightAssembler> inflight;
    // Shared with the load that is under way.
    std::shared_ptr<StreamStateSource> state;
    bool loading = false;
    bool discards = false;  // Its state is not wanted, or was refused.
    bool stuck = false;     // Its back-end did not take what came.
    bool to_start = false;  // It ran at the source, and does not yet here.
    bool tried_again = false;
  };

  // As the source's.
  bool go_on();

  // destination.cc
  absl::Status begin(UniqueFd channel);
  absl::Status open_channel(UniqueFd channel);
  void connect_devices();
  void connected(size_t index, absl::Status status);
  void all_connected();
  absl::Status take_manifest(const StreamRecord& record);
  bool may_come(RecordType type) const;
  absl::Status take_record(const StreamRecord& record);
  absl::Status take_other(const StreamRecord& record);
  absl::Status answer(RecordType type);
  void report();

  // destination_ram.cc
  absl::Status refresh_ram();
  std::vector<std::string> add_missing_ram(const Manifest& theirs);
  absl::Status take_ram_blocks(const StreamRecord& record);
  absl::Status take_pages(const StreamRecord& record);
  absl::Status take_zeros(const StreamRecord& record);
  absl::Status take_round_end(const StreamRecord& record);
  absl::Status take_hash(const StreamRecord& record);
  absl::StatusOr<const MigrationRam*> block_of(
      const StreamRecord& record) const;
  absl::Status take_switchover();
  // Work that takes more than a turn: `job` is called once a turn until it says
  // that it is over, and nothing is read meanwhile.
  using Job = absl::AnyInvocable<absl::StatusOr<bool>()>;
  void run(Job job);
  void run_job();
  void read_if_wanted();

  // destination_devices.cc
  absl::StatusOr<size_t> device_of(const StreamRecord& record) const;
  absl::Status take_device_record(const StreamRecord& record);
  absl::Status take_core(Device& entry, const StreamRecord& record);
  absl::Status take_config(Device& entry, const StreamRecord& record);
  absl::Status take_inflight(Device& entry, const StreamRecord& record);
  absl::Status take_state(size_t index, const StreamRecord& record);
  absl::Status begin_load(size_t index);
  std::shared_ptr<StreamStateSource> make_source();
  void external_ready();
  void hold_up(size_t index);
  void give_up_state(size_t index);
  void close_sources(const absl::Status& why);
  void loaded(size_t index, absl::Status status);
  absl::Status take_guest(const StreamRecord& record);
  absl::Status take_state_end();
  absl::Status check_complete(const Device& entry) const;
  void configure_if_loaded();
  void config_read(size_t index, absl::Status status);
  void config_written(size_t index, absl::Status status);
  void prepare_if_configured();
  absl::Status load_all();
  absl::Status place(Device& entry);

  // destination_start.cc
  absl::Status take_commit();
  void start_devices();
  void start_device(size_t index);
  void device_connected(size_t index, absl::Status status);
  void device_started(size_t index, absl::Status status);
  void start_guest();
  void guest_started(absl::Status status);
  void stuck(const absl::Status& why);
  void fail(const absl::Status& why);
  void give_up_if_possible();
  void finish(absl::Status status, Outcome outcome);

  VhostContext& context_;
  MigrationVmm& vmm_;
  const Options options_;
  ProgressBoard board_;

  bool busy_ = false;
  From from_ = From::kHost;
  Completion done_;
  absl::Status error_;
  Outcome outcome_ = Outcome::kNone;
  std::unique_ptr<Channel> channel_;
  std::vector<Device> devices_;
  std::map<uint32_t, MigrationRam> blocks_;
  std::string guest_;                        // The VMM's record, so far.
  std::unique_ptr<EventLoop::Timer> stuck_;  // While one holds all others up.
  Job job_;
  bool state_complete_ = false;  // kStateEnd came.
  bool configuring_ = false;
  bool prepared_ = false;   // All is here and checked.
  bool committed_ = false;  // The guest is this side's.
  bool source_gave_up_ = false;
  uint64_t moved_ = 0;  // Bytes of RAM.
  uint64_t zeros_ = 0;
};

}  // namespace vhost

#endif  // MIGRATION_DESTINATION_H_
