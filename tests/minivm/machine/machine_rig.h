// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MACHINE_MACHINE_RIG_H_
#define TESTS_MINIVM_MACHINE_MACHINE_RIG_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "tests/minivm/machine/lying_disk.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/machine.h"
#include "tools/minivm/machine/kvm_machine.h"
#include "vhostdev/kvm_notifiers.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_net.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/virtio_mmio.h"

namespace vhost::minivm {

// What a device tree has to say.
struct TreeParts {
  bool mailbox = true;
  uint32_t cpus = 1;
  uint64_t memory = 0;
  uint32_t devices = 0;
};
std::vector<std::byte> make_tree(const TreeParts& parts);

// A virtual machine of the test's own, with devices of model back-ends.
class MachineRig : public ::testing::Test {
 protected:
  static constexpr uint64_t kRam = uint64_t{64} << 20;

  struct DiskOptions {
    uint64_t size = uint64_t{8} << 20;  // Bytes.
    uint16_t queues = 1;
    std::optional<ctl::BlockFault> fault;
    MaskMode mask_mode = MaskMode::kLocal;
    bool irqfd = true;
  };
  // A back-end on a thread, and what is between it and the guest.
  class Device;

  MachineRig();
  ~MachineRig() override;

  // Skips the test where there is no KVM.
  void SetUp() override;

  void make_machine(uint32_t cpus = 1);
  Device& add_disk(const DiskOptions& options);
  // Joined with each other, or one with itself.
  void add_nets(uint32_t count);
  // The payload, over all devices there are.
  void make_guest(Workload workload = {});
  void make_guest(PayloadOptions options);
  void start();

  // Turns the loop until it is so; a minute at most.
  bool wait(absl::FunctionRef<bool()> condition);
  // Until an operation is over.
  absl::Status finish(absl::FunctionRef<void(Completion)> begin);

  bool running() { return guest_->report().state == "running"; }
  uint64_t requests() {
    const WorkloadReport report = guest_->report();
    return report.reads + report.writes;
  }
  bool requests_grow_by(uint64_t count) {
    const uint64_t begin = requests();
    return wait([&] { return ended_ || requests() >= begin + count; }) &&
           !ended_;
  }
  // Ends the workload; the report of that.
  WorkloadReport end();

  std::unique_ptr<EpollEventLoop> loop_ = *EpollEventLoop::create();
  AddressSpace memory_;
  VhostContext context_{*loop_, memory_};
  std::unique_ptr<Machine> machine_;
  std::vector<std::unique_ptr<testing::ModelDevice>> models_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<Guest> guest_;
  std::string serial_;
  uint32_t cpus_ = 1;
  bool ended_ = false;
};

class MachineRig::Device final : public BackendEvents {
 public:
  Device(MachineRig& rig, uint32_t number, testing::ModelDevice& model,
         const DiskOptions& options);
  ~Device() override;

  testing::ModelBackend& backend() { return backend_; }
  KvmNotifiers& notifiers() { return *notifiers_; }
  VhostDev& dev() { return *dev_; }
  VirtioMmio& transport() { return *transport_; }

  // A lost back-end is looked for again at once.
  void broken(const absl::Status& why) override;

 private:
  std::string socket_;
  testing::ModelBackend backend_;
  std::unique_ptr<KvmNotifiers> notifiers_;
  std::unique_ptr<VirtioMmio> transport_;
  std::unique_ptr<VhostDev> dev_;
  std::unique_ptr<TransportOperations> operations_;
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_MACHINE_MACHINE_RIG_H_
