// SPDX-License-Identifier: Apache-2.0
#include "tests/minivm/machine/machine_rig.h"

#include <libfdt.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/minivm/kept_kvm.h"
#include "vhostdev/vhost_user.h"

namespace vhost::minivm {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

testing::ModelOptions model_options(uint16_t queues) {
  testing::ModelOptions options;
  options.queues = queues;
  return options;
}

void set_reg(void* fdt, int node, uint64_t address, uint64_t size) {
  const fdt64_t cells[] = {cpu_to_fdt64(address), cpu_to_fdt64(size)};
  fdt_setprop(fdt, node, "reg", cells, sizeof(cells));
}

}  // namespace

std::vector<std::byte> make_tree(const TreeParts& parts) {
  std::vector<std::byte> tree(0x4000);
  void* const fdt = tree.data();
  fdt_create_empty_tree(fdt, static_cast<int>(tree.size()));
  fdt_setprop_u32(fdt, 0, "#address-cells", 2);
  fdt_setprop_u32(fdt, 0, "#size-cells", 2);
  if (parts.mailbox) {
    const int mailbox = fdt_add_subnode(fdt, 0, "mailbox@90000");
    fdt_setprop_string(fdt, mailbox, "compatible", "vhostdev,mailbox");
    set_reg(fdt, mailbox, kMailboxGpa, 4096);
  }
  const int ram = fdt_add_subnode(fdt, 0, "memory@0");
  fdt_setprop_string(fdt, ram, "device_type", "memory");
  set_reg(fdt, ram, 0, parts.memory);
  const int cpus = fdt_add_subnode(fdt, 0, "cpus");
  for (uint32_t i = 0; i < parts.cpus; ++i) {
    const int cpu = fdt_add_subnode(fdt, cpus, absl::StrCat("cpu@", i).c_str());
    fdt_setprop_string(fdt, cpu, "device_type", "cpu");
  }
  for (uint32_t i = parts.devices; i > 0; --i) {
    MmioNode node;
    node.gpa = device_gpa(i - 1);
    node.interrupt = {kDeviceGsis[i - 1], 1};
    EXPECT_EQ(add_mmio_node(fdt, 0, node), absl::OkStatus());
  }
  return tree;
}

MachineRig::MachineRig() = default;
MachineRig::~MachineRig() = default;

void MachineRig::SetUp() {
  keep_kvm();
  const absl::StatusOr<Kvm> kvm = Kvm::create();
  if (absl::IsNotFound(kvm.status()) ||
      absl::IsPermissionDenied(kvm.status())) {
    GTEST_SKIP() << kvm.status();
  }
  ASSERT_TRUE(kvm.ok()) << kvm.status();
  auto ram = MemoryRegion::create_memfd("ram", kRam);
  ASSERT_TRUE(ram.ok()) << ram.status();
  MemorySection section;
  section.size = kRam;
  section.region = *std::move(ram);
  ASSERT_EQ(memory_.add(std::move(section)), absl::OkStatus());
}

void MachineRig::make_machine(uint32_t cpus) {
  cpus_ = cpus;
  Machine::Options options;
  options.cpus = cpus;
  auto machine = Machine::create(*loop_, memory_, options);
  ASSERT_TRUE(machine.ok()) << machine.status();
  machine_ = *std::move(machine);
}

MachineRig::Device& MachineRig::add_disk(const DiskOptions& options) {
  models_.push_back(
      std::make_unique<LyingDisk>(options.size, options.queues, options.fault));
  devices_.push_back(std::make_unique<Device>(
      *this, static_cast<uint32_t>(devices_.size()), *models_.back(), options));
  return *devices_.back();
}

void MachineRig::add_nets(uint32_t count) {
  std::vector<testing::ModelNet*> nets;
  for (uint32_t i = 0; i < count; ++i) {
    auto net = std::make_unique<testing::ModelNet>();
    nets.push_back(net.get());
    models_.push_back(std::move(net));
  }
  testing::ModelNet::join(*nets.front(), *nets.back());
  for (testing::ModelNet* net : nets) {
    DiskOptions pair;
    pair.queues = 2;
    devices_.push_back(std::make_unique<Device>(
        *this, static_cast<uint32_t>(devices_.size()), *net, pair));
  }
}

void MachineRig::make_guest(Workload workload) {
  PayloadOptions options;
  options.workload = workload;
  TreeParts parts;
  parts.cpus = cpus_;
  parts.memory = kRam;
  parts.devices = static_cast<uint32_t>(devices_.size());
  options.tree = make_tree(parts);
  make_guest(std::move(options));
}

void MachineRig::make_guest(PayloadOptions options) {
  options.serial = [this](absl::string_view text) {
    serial_.append(text.data(), text.size());
  };
  auto guest =
      make_payload_guest(*loop_, memory_, *machine_, std::move(options));
  ASSERT_TRUE(guest.ok()) << guest.status();
  guest_ = *std::move(guest);
}

void MachineRig::start() {
  ASSERT_EQ(guest_->start([this] { ended_ = true; }), absl::OkStatus());
}

bool MachineRig::wait(absl::FunctionRef<bool()> condition) {
  const MonotonicTime deadline = loop_->now() + kPatience;
  while (!condition()) {
    if (loop_->now() > deadline) return false;
    const absl::Status turned = loop_->run_once(std::chrono::milliseconds(10));
    if (!turned.ok()) return false;
  }
  return true;
}

absl::Status MachineRig::finish(absl::FunctionRef<void(Completion)> begin) {
  // Outlives a wait that is given up.
  const auto result = std::make_shared<std::optional<absl::Status>>();
  begin([result](absl::Status status) { *result = std::move(status); });
  if (!wait([&] { return result->has_value(); })) {
    return absl::DeadlineExceededError("the test's patience");
  }
  return **result;
}

WorkloadReport MachineRig::end() {
  guest_->finish();
  EXPECT_TRUE(wait([this] { return ended_; }));
  return guest_->report();
}

MachineRig::Device::Device(MachineRig& rig, uint32_t number,
                           testing::ModelDevice& model,
                           const DiskOptions& options)
    : socket_(absl::StrCat(::testing::TempDir(), "minivm-", ::getpid(), "-",
                           number, ".sock")),
      backend_(&model, model_options(options.queues)) {
  EXPECT_EQ(backend_.listen_on(socket_), absl::OkStatus());
  EXPECT_EQ(backend_.start_thread(), absl::OkStatus());

  KvmNotifiers::Options binding;
  binding.notify_gpa = device_gpa(number) + kMmioQueueNotifyOffset;
  binding.gsi = kDeviceGsis[number];
  binding.irqfd = options.irqfd;
  auto notifiers =
      KvmNotifiers::create(rig.machine_->vm(), *rig.loop_, binding);
  EXPECT_TRUE(notifiers.ok()) << notifiers.status();
  notifiers_ = *std::move(notifiers);

  const auto config = static_cast<uint32_t>(model.config().size());
  VirtioMmio::Options window;
  window.device_id = model.device_id();
  window.queue_sizes.assign(options.queues, 128);
  window.config_size = config;
  window.interrupt = [this] { notifiers_->interrupt(); };
  window.events = this;
  transport_ = std::make_unique<VirtioMmio>(*rig.loop_, std::move(window));

  VhostDev::Options device;
  device.queues = QueueMap::identity(options.queues);
  device.config_size = config;
  device.mask_mode = options.mask_mode;
  dev_ = std::make_unique<VhostDev>(
      rig.context_, make_vhost_user_ops(ConnectTo{socket_}), *transport_,
      *notifiers_, *transport_, nullptr, std::move(device));
  operations_ = make_transport_operations(*dev_);
  transport_->attach(operations_.get());
  EXPECT_EQ(
      rig.finish([this](Completion done) { dev_->init(std::move(done)); }),
      absl::OkStatus());
  FeatureSet offered = dev_->backend_features();
  offered.clear(kFeatureRingPacked).clear(kFeatureProtocolFeatures);
  offered.clear(kFeatureLogAll);
  EXPECT_EQ(transport_->offer(offered), absl::OkStatus());
  EXPECT_EQ(rig.finish([this](Completion done) {
    transport_->refresh_config(std::move(done));
  }),
            absl::OkStatus());
  rig.machine_->add_device(device_gpa(number), *transport_);
}

MachineRig::Device::~Device() = default;

void MachineRig::Device::broken(const absl::Status& why) {
  static_cast<void>(why);
  dev_->init([](absl::Status status) {
    EXPECT_EQ(status, absl::OkStatus()) << "the back-end is back at once";
  });
}

}  // namespace vhost::minivm
