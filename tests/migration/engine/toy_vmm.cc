// SPDX-License-Identifier: Apache-2.0
#include "tests/migration/engine/toy_vmm.h"

#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace vhost {
namespace {

constexpr uint32_t kNum = 256;  // Descriptors of a ring.
constexpr uint32_t kQueues = 2;

}  // namespace

// ---------------------------------------------------------------------------
// Devices
// ---------------------------------------------------------------------------

ToyVmm::Device::Device(ToyVmm& vmm, std::string name, uint64_t rings,
                       std::unique_ptr<VhostOps> its_ops, bool track_inflight)
    : guest({.queues = kQueues, .num = kNum, .rings_gpa = rings}),
      vmm_(vmm),
      name_(std::move(name)) {
  if (its_ops == nullptr) {
    auto fake = std::make_unique<testing::FakeVhostOps>();
    ops = fake.get();
    journal = fake->shared_journal;
    fake->backend.config.assign(8, std::byte{1});
    its_ops = std::move(fake);
  }
  VhostDev::Options options;
  options.name = name_;
  options.queues = QueueMap::identity(kQueues);
  options.track_inflight = track_inflight;
  options.config_size = 8;
  dev_ = std::make_unique<VhostDev>(vmm.context, std::move(its_ops), guest,
                                    binding, events, nullptr, options);
}

DeviceManifest ToyVmm::Device::describe() const {
  DeviceManifest out;
  out.virtio_id = kDeviceIdBlock;
  out.device_class = device_class;
  out.queue_sizes.assign(kQueues, kNum);
  out.offered = features;
  out.acked = features;
  out.config_length = config_length;
  return out;
}

void ToyVmm::Device::start(Completion done) {
  EXPECT_FALSE(vmm_.running) << name_ << ": started under a running guest";
  if (!fail_start.ok()) {
    return vmm_.later(std::move(done),
                      std::exchange(fail_start, absl::OkStatus()));
  }
  dev_->start(std::move(done));
}

absl::StatusOr<DeviceCore> ToyVmm::Device::save_core() {
  EXPECT_FALSE(vmm_.running);
  EXPECT_EQ(dev_->state(), DeviceState::kReady);
  if (!fail_save_core.ok()) return fail_save_core;
  DeviceCore core;
  core.status = status;
  core.features = features;
  for (const VirtqueueConfig& queue : guest.queues) {
    core.queues.push_back({.num = queue.num,
                           .desc = queue.desc_gpa,
                           .avail = queue.avail_gpa,
                           .used = queue.used_gpa,
                           .ready = status != 0,
                           .enabled = status != 0});
  }
  return core;
}

absl::Status ToyVmm::Device::load_core(const DeviceCore& core) {
  if (!fail_load_core.ok()) return fail_load_core;
  status = core.status;
  for (size_t i = 0; i < core.queues.size(); ++i) {
    guest.queues[i].num = core.queues[i].num;
    guest.queues[i].desc_gpa = core.queues[i].desc;
    guest.queues[i].avail_gpa = core.queues[i].avail;
    guest.queues[i].used_gpa = core.queues[i].used;
  }
  return dev_->ack_features(core.features, core.features);
}

void ToyVmm::Device::bring_up() {
  status =
      kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;
  ASSERT_TRUE(dev_->ack_features(features, features).ok());
  dev_->start([](const absl::Status& s) { ASSERT_TRUE(s.ok()) << s; });
}

void ToyVmm::Device::revive() {
  if (dev_->state() != DeviceState::kBroken) return;
  const uint16_t base =
      testing::used_index(vmm_.memory, guest.queue(QueueIndex{0})).value_or(0);
  dev_->init([this, base](const absl::Status& s) {
    ASSERT_TRUE(s.ok()) << s;
    ASSERT_TRUE(dev_->set_queue_base(QueueIndex{0}, VringBase{base}).ok());
    dev_->start([](const absl::Status& t) { ASSERT_TRUE(t.ok()) << t; });
  });
}

void ToyVmm::Device::serve(uint16_t requests) {
  const VirtqueueConfig queue = guest.queue(QueueIndex{0});
  ASSERT_TRUE(testing::set_avail_index(vmm_.memory, queue, requests));
  ASSERT_TRUE(testing::set_used_index(vmm_.memory, queue, requests));
  backend().harvests[0] = VringBase{requests};
  vmm_.writes.add(queue.avail_gpa, 4);
  vmm_.context.log().mark(queue.used_gpa, 4);
}

// ---------------------------------------------------------------------------
// The guest's writes
// ---------------------------------------------------------------------------

absl::Status ToyVmm::Writes::enable() {
  if (!fail_enable.ok()) return fail_enable;
  EXPECT_EQ(++enabled, 1);
  ranges_.clear();
  return absl::OkStatus();
}

absl::Status ToyVmm::Writes::sync(DirtySink& sink) {
  EXPECT_EQ(enabled, 1);
  if (on_sync != nullptr) on_sync();
  if (!fail_sync.ok()) return fail_sync;
  for (const auto& [gpa, size] : std::exchange(ranges_, {})) {
    tell_dirty(gpa, size, sink);
  }
  return absl::OkStatus();
}

void ToyVmm::Writes::add(uint64_t gpa, uint64_t size) {
  if (enabled != 0) ranges_.emplace_back(gpa, size);
}

// ---------------------------------------------------------------------------
// The VMM
// ---------------------------------------------------------------------------

ToyVmm::ToyVmm(EventLoop& its_loop, size_t devices, const MakeOps& make_ops,
               bool track_inflight)
    : loop(its_loop), context(its_loop, memory) {
  const auto region = testing::add_memory(memory, 0, kRam);
  blocks.push_back({.id = 0, .name = "ram", .size = kRam, .region = region});
  for (size_t i = 0; i < devices; ++i) {
    toys.push_back(std::make_unique<Device>(
        *this, absl::StrCat("disk", i), (4 * i + 1) << 16,
        make_ops == nullptr ? nullptr : make_ops(i), track_inflight));
  }
}

void ToyVmm::bring_up() {
  for (const auto& toy : toys) {
    toy->dev().init([device = toy.get()](const absl::Status& s) {
      ASSERT_TRUE(s.ok()) << s;
      device->bring_up();
    });
  }
  running = true;
}

void ToyVmm::later(Completion done, absl::Status status) {
  loop.post([done = std::move(done), status = std::move(status)]() mutable {
    done(std::move(status));
  });
}

void ToyVmm::guest_writes(uint64_t gpa, uint64_t size, uint8_t value) {
  std::byte* at = memory.translate(gpa, size);
  ASSERT_NE(at, nullptr);
  std::memset(at, value, size);
  writes.add(gpa, size);
}

void ToyVmm::backend_writes(uint64_t gpa, uint64_t size, uint8_t value) {
  std::byte* at = memory.translate(gpa, size);
  ASSERT_NE(at, nullptr);
  std::memset(at, value, size);
  context.log().mark(gpa, size);
}

void ToyVmm::plug(uint32_t slot) {
  const uint64_t gpa = kAdded + slot * kRam;
  const std::string name = absl::StrCat("added", slot);
  const auto region = testing::add_memory(memory, gpa, kRam, name);
  ASSERT_NE(region, nullptr);
  blocks.push_back({.id = slot + 1,
                    .name = name,
                    .gpa = gpa,
                    .size = kRam,
                    .region = region});
}

std::string ToyVmm::content(uint64_t gpa, uint64_t size) const {
  const std::byte* at = memory.translate(gpa, size);
  if (at == nullptr) return "no memory";
  return {reinterpret_cast<const char*>(at), size};
}

std::string ToyVmm::content() const {
  std::string out;
  for (const MigrationRam& block : blocks) {
    out += content(block.gpa, block.size);
  }
  return out;
}

std::vector<MigrationRam> ToyVmm::ram() {
  if (on_round != nullptr) on_round();
  return blocks;
}

std::vector<MigrationDevice*> ToyVmm::devices() {
  std::vector<MigrationDevice*> out;
  for (const auto& toy : toys) out.push_back(toy.get());
  return out;
}

void ToyVmm::pause_guest(bool drain, Completion done) {
  EXPECT_TRUE(running);
  drained = drain;
  ++pauses;
  const absl::Status status = std::exchange(fail_pause, absl::OkStatus());
  if (status.ok()) running = false;
  later(std::move(done), status);
}

void ToyVmm::resume_guest(Completion done) {
  EXPECT_FALSE(running);
  const absl::Status status = std::exchange(fail_resume, absl::OkStatus());
  if (status.ok()) running = true;
  later(std::move(done), status);
}

absl::StatusOr<std::string> ToyVmm::save_guest() {
  EXPECT_FALSE(running);
  if (!fail_save.ok()) return std::exchange(fail_save, absl::OkStatus());
  return registers;
}

absl::Status ToyVmm::add_ram(const RamBlock& block) {
  if (!fail_add_ram.ok()) return fail_add_ram;
  plug(block.id - 1);
  return absl::OkStatus();
}

absl::Status ToyVmm::load_guest(absl::string_view bytes) {
  EXPECT_FALSE(running);
  if (!fail_load.ok()) return std::exchange(fail_load, absl::OkStatus());
  registers = std::string(bytes);
  return absl::OkStatus();
}

void ToyVmm::start_guest(Completion done) {
  EXPECT_FALSE(running);
  for (const auto& toy : toys) {
    if (toy->status != 0) {
      EXPECT_EQ(toy->dev().state(), DeviceState::kRunning) << toy->name();
    }
  }
  const absl::Status status = std::exchange(fail_start, absl::OkStatus());
  if (status.ok()) running = true;
  later(std::move(done), status);
}

}  // namespace vhost
