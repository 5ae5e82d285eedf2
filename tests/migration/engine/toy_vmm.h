// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_ENGINE_TOY_VMM_H_
#define TESTS_MIGRATION_ENGINE_TOY_VMM_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "vhostdev/memory.h"
#include "vhostdev/migration.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"

namespace vhost {

// A VMM in miniature: memory, block devices with two queues over FakeVhostOps,
// and a guest that writes where a test says.  It checks what an embedder may
// rely on: its guest and devices are never asked for what they cannot do.
class ToyVmm final : public MigrationVmm {
 public:
  static constexpr uint64_t kRam = 4 << 20;
  static constexpr uint64_t kAdded = uint64_t{1} << 30;  // Where memory is
                                                         // plugged.

  class Device final : public MigrationDevice {
   public:
    // Over `its_ops`, or if null over a FakeVhostOps.
    Device(ToyVmm& vmm, std::string name, uint64_t rings,
           std::unique_ptr<VhostOps> its_ops, bool track_inflight);

    std::string name() const override { return name_; }
    VhostDev& dev() override { return *dev_; }
    DeviceManifest describe() const override;
    State state() const override { return state_kind; }
    void start(Completion done) override;
    absl::StatusOr<DeviceCore> save_core() override;
    absl::Status load_core(const DeviceCore& core) override;
    void config_differs() override { ++config_differences; }
    void announce() override { ++announcements; }

    // The guest's driver is done with its set-up, and the device runs.
    void bring_up();
    // Its back-end was killed under a running guest, and there is a new one.
    void revive();
    // The back-end has consumed and finished `requests` in all of queue 0.
    void serve(uint16_t requests);
    testing::FakeBackend& backend() { return ops->backend; }

    testing::FakeVirtioDevice guest;
    testing::FakeNotifierBinding binding;
    testing::RecordingBackendEvents events;
    testing::FakeVhostOps* ops = nullptr;  // Null: somebody else's.
    std::shared_ptr<std::vector<std::string>> journal;
    State state_kind = State::kNone;
    std::string device_class = "virtio-blk-toy";
    uint8_t status = 0;
    uint32_t config_length = 0;
    FeatureSet features = {kFeatureVersion1, kFeatureEventIdx};
    absl::Status fail_load_core;
    absl::Status fail_save_core;
    absl::Status fail_start;  // The next start().
    int config_differences = 0;
    int announcements = 0;

   private:
    ToyVmm& vmm_;
    const std::string name_;
    std::unique_ptr<VhostDev> dev_;
  };

  // Tells what the guest writes.
  class Writes final : public DirtyProvider {
   public:
    absl::string_view name() const override { return "guest"; }
    absl::Status enable() override;
    absl::Status sync(DirtySink& sink) override;
    void disable() override { --enabled; }
    void add(uint64_t gpa, uint64_t size);

    int enabled = 0;
    absl::Status fail_enable;
    absl::Status fail_sync;
    absl::AnyInvocable<void()> on_sync;

   private:
    std::vector<std::pair<uint64_t, uint64_t>> ranges_;
  };

  using MakeOps = std::function<std::unique_ptr<VhostOps>(size_t)>;
  ToyVmm(EventLoop& loop, size_t devices, const MakeOps& make_ops = nullptr,
         bool track_inflight = false);

  // The devices run, and the guest.
  void bring_up();
  bool runs() const { return running; }

  // The guest, or a back-end, stores `value` in all bytes of the range; the
  // guest's provider or the vhost log knows.
  void guest_writes(uint64_t gpa, uint64_t size, uint8_t value);
  void backend_writes(uint64_t gpa, uint64_t size, uint8_t value);
  // Memory at kAdded + `slot` * kRam.
  void plug(uint32_t slot);
  std::string content(uint64_t gpa, uint64_t size) const;
  // Of all memory.
  std::string content() const;

  std::vector<MigrationRam> ram() override;
  std::vector<MigrationDevice*> devices() override;
  std::vector<DirtyProvider*> dirty_providers() override { return {&writes}; }
  std::vector<std::string> migration_blockers() override { return blockers; }
  void pause_guest(bool drain, Completion done) override;
  void resume_guest(Completion done) override;
  absl::StatusOr<std::string> save_guest() override;
  absl::Status add_ram(const RamBlock& block) override;
  absl::Status load_guest(absl::string_view bytes) override;
  void start_guest(Completion done) override;

  // Planned failures of the next call, and what was called.
  absl::Status fail_pause;
  absl::Status fail_resume;
  absl::Status fail_save;
  absl::Status fail_add_ram;
  absl::Status fail_load;
  absl::Status fail_start;
  // Called before each round: the guest at work.
  absl::AnyInvocable<void()> on_round;

  EventLoop& loop;
  AddressSpace memory;
  VhostContext context;
  Writes writes;
  std::vector<MigrationRam> blocks;
  std::vector<std::unique_ptr<Device>> toys;
  std::vector<std::string> blockers;
  std::string registers = "registers";
  bool running = false;
  bool drained = false;  // Of the last pause.
  int pauses = 0;

 private:
  void later(Completion done, absl::Status status);
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_ENGINE_TOY_VMM_H_
