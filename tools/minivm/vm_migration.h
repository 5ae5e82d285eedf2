// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_VM_MIGRATION_H_
#define TOOLS_MINIVM_VM_MIGRATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/device.h"
#include "tools/minivm/memory.h"
#include "tools/minivm/pauser.h"
#include "vhostdev/dirty_provider.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/memory.h"
#include "vhostdev/migration.h"

namespace vhost::minivm {

// What the driver in this process writes: all of its memory, as far as anybody
// knows.  It is small.
class DriverWrites final : public DirtyProvider {
 public:
  // `memory` outlives this.
  explicit DriverWrites(const DmaMemory& memory) : memory_(memory) {}

  absl::string_view name() const override { return "driver"; }
  absl::Status enable() override { return absl::OkStatus(); }
  absl::Status sync(DirtySink& sink) override;
  void disable() override {}

 private:
  const DmaMemory& memory_;
};

// A VM as a migration sees it: one for each attempt, at either end.  Loop
// thread.
class VmMigration final : public MigrationVmm {
 public:
  // All of them outlive this.
  struct Parts {
    EventLoop& loop;
    AddressSpace& memory;
    GuestMemory& pieces;
    Platform& platform;
    Pauser& pauser;
  };

  // `no_drain`: a guest that is halted is not asked to let what is in flight
  // complete.
  VmMigration(Parts parts, bool no_drain);
  ~VmMigration() override;

  // How a guest that was loaded begins to run; the destination.
  void set_start(absl::AnyInvocable<absl::Status()> start) {
    start_ = std::move(start);
  }

  std::vector<MigrationRam> ram() override;
  std::vector<MigrationDevice*> devices() override;
  std::vector<DirtyProvider*> dirty_providers() override;
  void pause_guest(bool drain, Completion done) override;
  void resume_guest(Completion done) override;
  absl::StatusOr<std::string> save_guest() override;
  absl::Status add_ram(const RamBlock& block) override;
  absl::Status load_guest(absl::string_view bytes) override;
  void start_guest(Completion done) override;

 private:
  // Calls `done` from the loop, and not from where it is called.
  Completion later(Completion done);
  std::optional<RamBlock> block_at(uint64_t gpa) const;
  absl::Status add_piece(const RamBlock& block, uint64_t id);
  absl::Status add_driver_memory(const RamBlock& block);

  const Parts parts_;
  const bool no_drain_;
  std::vector<std::unique_ptr<MigrationDevice>> devices_;
  std::optional<DriverWrites> driver_writes_;
  absl::AnyInvocable<absl::Status()> start_;
  // Of memory that was added and did not come to stay.
  absl::Status memory_failure_;
  // What is posted may come after this is gone.
  std::shared_ptr<VmMigration*> self_ = std::make_shared<VmMigration*>(this);
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_VM_MIGRATION_H_
