// SPDX-License-Identifier: Apache-2.0
// Guests that do anything: the VMM lives, nothing outside of their memory is
// touched, every write is over once, and another device still works.
#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/mmio/guarded_memory.h"
#include "tests/mmio/hostile_guest.h"
#include "tests/mmio/mmio_fixture.h"
#ifdef VHOSTDEV_TEST_USER
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"
#endif

namespace vhost {
namespace {

#ifdef VHOSTDEV_NIGHTLY
constexpr uint64_t kShare = 1;
#else
constexpr uint64_t kShare = 10;
#endif
constexpr uint64_t kOverFake = 10'000'000 / kShare;
constexpr uint64_t kOverModel = 100'000;
constexpr uint64_t kRam = 1 << 20;
constexpr size_t kVcpus = 8;  // So many writes may be pending.

VirtioMmio::Options transport_options(uint32_t config_size) {
  VirtioMmio::Options options;
  options.name = "mmio";
  options.device_id = kDeviceIdBlock;
  options.queue_sizes = {256, 256};
  options.config_size = config_size;
  return options;
}

VhostDev::Options device_options(uint32_t config_size) {
  VhostDev::Options options;
  options.name = "disk";
  options.queues = QueueMap::identity(2);
  options.config_size = config_size;
  options.drain_timeout = std::chrono::milliseconds(2);
  return options;
}

FeatureSet offered() {
  return {kFeatureVersion1, kFeatureEventIdx, kFeatureRingReset};
}

// -- Over a fake back-end that is as unreliable
// --------------------------------

class HostileOverFake {
 public:
  explicit HostileOverFake(uint64_t seed)
      : guest(disk.transport, memory.bytes(), seed), seed_(seed) {
    EXPECT_TRUE(disk.transport.offer(offered()).ok());
    EXPECT_TRUE(other.transport.offer(offered()).ok());
    connect(disk);
    connect(other);
  }

  void run(uint64_t operations) {
    for (uint64_t i = 0; i < operations;) {
      // While all vCPUs wait, the rest of the world goes on.
      if (guest.pending() < kVcpus) {
        guest.step();
        ++i;
      }
      if (guest.below(4) == 0) loop.run_ready();
      if (guest.below(64) == 0) loop.advance(std::chrono::milliseconds(1));
      if (guest.below(8) == 0) live_a_little();
    }
    settle();
  }

  // What a VMM and a back-end do meanwhile.
  void live_a_little() {
    using testing::Completes;
    const uint64_t what = guest.below(256);
    if (what == 0) {
      disk.transport.pause([](const absl::Status&) {});
    } else if (what < 5) {
      disk.transport.resume([](const absl::Status&) {});
    } else if (what == 5) {
      disk.ops->lose(guest.below(2) == 0
                         ? absl::UnavailableError("gone")
                         : absl::DeadlineExceededError("silent"));
    } else if (what < 8) {
      disk.ops->completes =
          guest.below(4) != 0 ? Completes::kInline : Completes::kOnRequest;
    } else if (what == 8) {
      disk.ops->refuse_next("Go", absl::AbortedError("no"));
    } else if (what == 9) {
      disk.ops->change_config(0, {static_cast<std::byte>(seed_++)});
    } else if (what < 20) {
      connect(disk);
    } else if (what < 30) {
      disk.transport.release_reset();
    } else {
      disk.ops->complete_next();
    }
  }

  // The VMM takes care that the guest gets on.
  void settle() {
    disk.ops->completes = testing::Completes::kInline;
    disk.ops->forget_plans();
    int turns = 0;
    do {
      while (disk.ops->complete_next()) loop.run_ready();
      disk.transport.resume([](const absl::Status&) {});
      loop.advance(std::chrono::seconds(1));
      disk.transport.release_reset();
      loop.run_ready();
    } while (guest.pending() > 0 && ++turns < 100);
    EXPECT_EQ(guest.pending(), 0u);
    EXPECT_FALSE(guest.over_twice());
  }

  void connect(MmioDevice& device) {
    if (device.dev->state() != DeviceState::kCreated &&
        device.dev->state() != DeviceState::kBroken) {
      return;
    }
    device.dev->init([](const absl::Status&) {});
    loop.run_ready();
  }

  // A driver that behaves gets what it wants of `device`.
  void expect_works(MmioDevice& device) {
    connect(device);
    std::fill(memory.bytes().begin(), memory.bytes().end(), std::byte{0});
    const Writes before = device.guest.write(mmio::kStatus, 0);
    for (int i = 0; i < 5; ++i) loop.advance(std::chrono::seconds(1));
    device.transport.release_reset();
    loop.run_ready();
    EXPECT_EQ(device.guest.status(), 0u);
    EXPECT_TRUE(before == nullptr || *before == 1);
    connect(device);
    EXPECT_TRUE(device.guest.negotiate({kFeatureVersion1}));
    device.guest.set_up_queue(0);
    const Writes started = device.guest.add_status(kStatusDriverOk);
    loop.run_ready();
    ASSERT_NE(started, nullptr);
    EXPECT_EQ(*started, 1);
    EXPECT_EQ(device.guest.status(), 15u);
    EXPECT_EQ(device.dev->state(), DeviceState::kRunning);
    const Writes reset = device.guest.write(mmio::kStatus, 0);
    loop.run_ready();
    EXPECT_EQ(*reset, 1);
  }

  testing::ManualEventLoop loop;
  AddressSpace space;
  GuardedMemory memory{space, kRam};
  VhostContext context{loop, space};
  MmioDevice disk{loop, context, transport_options(24), device_options(24)};
  MmioDevice other{loop, context, transport_options(24), device_options(24)};
  HostileGuest guest;

 private:
  uint64_t seed_;
};

TEST(HostileGuests, LeaveAVmmOverAFakeBackEndAlive) {
  constexpr uint64_t kRuns = 20;
  for (uint64_t seed = 1; seed <= kRuns; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    HostileOverFake vm(seed);
    vm.run(kOverFake / kRuns);
    EXPECT_TRUE(vm.memory.canaries_live());
    // They did get somewhere.
    EXPECT_GT(vm.disk.transport.counters().starts, 10u);
    EXPECT_GT(vm.disk.transport.counters().resets, 10u);
    vm.expect_works(vm.other);
    vm.expect_works(vm.disk);
    if (::testing::Test::HasFailure()) return;
  }
}

// -- Over a back-end that believes nothing
// --------------------------------------

#ifdef VHOSTDEV_TEST_USER

constexpr auto kPatience = std::chrono::seconds(60);
constexpr uint32_t kConfigBytes = 60;

// A disk of vhost-user in this process, its thread and its transport.
class ModelDisk {
 public:
  ModelDisk(EpollEventLoop& loop, VhostContext& context, std::string path)
      : loop_(loop), transport(loop, options()) {
    EXPECT_TRUE(backend_.listen_on(path).ok());
    EXPECT_TRUE(backend_.start_thread().ok());
    dev = std::make_unique<VhostDev>(
        context, make_vhost_user_ops(ConnectTo{path}), transport, binding_,
        transport, nullptr, device_options(kConfigBytes));
    operations_ = make_transport_operations(*dev);
    transport.attach(operations_.get());
    EXPECT_TRUE(transport.offer(offered()).ok());
    connect();
  }

  void connect() {
    EXPECT_TRUE(dev->run([&](Completion done) { dev->init(std::move(done)); },
                         kPatience)
                    .ok());
  }

  // Turns the loop until `over`.  A held reset is released at once, and a
  // device that broke is connected again: this VMM trusts its back-end.
  template <typename Over>
  bool turn_until(Over over) {
    const auto limit = std::chrono::steady_clock::now() + kPatience;
    while (!over()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      EXPECT_TRUE(loop_.run_once(std::chrono::milliseconds(1)).ok());
      if (failed_) transport.release_reset();
      failed_ = false;
      if (dev->state() == DeviceState::kBroken) connect();
    }
    return true;
  }

 private:
  VirtioMmio::Options options() {
    VirtioMmio::Options options = transport_options(kConfigBytes);
    options.failed = [this](const absl::Status&) { failed_ = true; };
    return options;
  }

  EpollEventLoop& loop_;
  std::unique_ptr<testing::ModelBlk> disk_ =
      *testing::ModelBlk::on_memory(1 << 16);
  testing::ModelBackend backend_{disk_.get()};
  testing::FakeNotifierBinding binding_;
  bool failed_ = false;

 public:
  VirtioMmio transport;
  std::unique_ptr<VhostDev> dev;

 private:
  std::unique_ptr<TransportOperations> operations_;
};

TEST(HostileGuests, LeaveAVmmOverAModelBackEndAlive) {
  auto made = EpollEventLoop::create();
  ASSERT_TRUE(made.ok());
  EpollEventLoop& loop = **made;
  AddressSpace space;
  GuardedMemory memory(space, kRam);
  VhostContext context(loop, space);
  const std::string path =
      absl::StrCat(::testing::TempDir(), "mmio-hostile-", getpid());
  ModelDisk disk(loop, context, path + "-disk.sock");
  ModelDisk other(loop, context, path + "-other.sock");
  HostileGuest guest(disk.transport, memory.bytes(), 1);
  for (uint64_t i = 0; i < kOverModel; ++i) {
    guest.step();
    if (guest.pending() < 2) continue;
    ASSERT_TRUE(disk.turn_until([&] { return guest.pending() == 0; })) << i;
  }
  ASSERT_TRUE(disk.turn_until([&] { return guest.pending() == 0; }));
  EXPECT_FALSE(guest.over_twice());
  EXPECT_TRUE(memory.canaries_live());
  EXPECT_GT(disk.transport.counters().starts, 10u);

  for (ModelDisk* const device : {&other, &disk}) {
    std::fill(memory.bytes().begin(), memory.bytes().end(), std::byte{0});
    MmioGuest driver(device->transport);
    const Writes before = driver.write(mmio::kStatus, 0);
    ASSERT_TRUE(
        device->turn_until([&] { return before == nullptr || *before == 1; }));
    ASSERT_TRUE(driver.negotiate({kFeatureVersion1}));
    driver.set_up_queue(0);
    const Writes started = driver.add_status(kStatusDriverOk);
    ASSERT_NE(started, nullptr);
    ASSERT_TRUE(device->turn_until([&] { return *started == 1; }));
    EXPECT_EQ(driver.status(), 15u);
    EXPECT_EQ(device->dev->state(), DeviceState::kRunning);
  }
}

#endif  // VHOSTDEV_TEST_USER

}  // namespace
}  // namespace vhost
