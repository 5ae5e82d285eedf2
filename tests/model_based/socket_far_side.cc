// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/socket_far_side.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/vhost_user.h"

namespace vhost::model_based {
namespace {

using testing::FakeNotifierBinding;
using testing::ModelBackend;
using testing::ModelMessage;
using testing::ModelOptions;
using testing::ModelRingState;
using testing::ModelVerdict;

constexpr auto kPatience = std::chrono::seconds(10);
constexpr uint64_t kBuffer = 0xf0000;  // In guest memory, behind the rings.

struct Outcome {
  int calls = 0;

  static Completion of(const std::shared_ptr<Outcome>& outcome) {
    return [outcome](absl::Status) { ++outcome->calls; };
  }
};

}  // namespace

SocketFarSide::SocketFarSide() {
  static std::atomic<uint64_t> made = 0;
  path_ = absl::StrCat(::testing::TempDir(), "vhostdev-model-", ::getpid(), "-",
                       made++, ".sock");
  ModelOptions options;
  options.queues = kQueues;
  options.on_message = [this](const ModelMessage&) {
    return ModelVerdict{.kind = verdict_.load()};
  };
  model_ = std::make_unique<ModelBackend>(&device_, std::move(options));
  EXPECT_EQ(model_->listen_on(path_), absl::OkStatus());
  EXPECT_EQ(model_->start_thread(), absl::OkStatus());
  auto loop = EpollEventLoop::create();
  EXPECT_TRUE(loop.ok()) << loop.status();
  loop_ = *std::move(loop);
}

VhostDev::Options SocketFarSide::options() const {
  VhostDev::Options options;
  options.queues = QueueMap::identity(kQueues);
  options.config_size = 1;
  return options;
}

std::unique_ptr<VhostOps> SocketFarSide::connect() {
  return make_vhost_user_ops(ConnectTo{path_});
}

absl::Status SocketFarSide::drive(VhostDev& dev,
                                  absl::FunctionRef<void(Completion)> start) {
  return dev.run(start, kPatience);
}

void SocketFarSide::settle() {
  // What is posted now may post once more.
  for (int i = 0; i < 2; ++i) {
    const auto passed = std::make_shared<bool>(false);
    loop_->post([passed] { *passed = true; });
    turn_until([&passed] { return *passed; });
  }
}

bool SocketFarSide::turn_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    if (!loop_->run_once(std::chrono::milliseconds(1)).ok()) return false;
  }
  return true;
}

void SocketFarSide::disconnect(VhostDev& dev) {
  if (dev.state() == DeviceState::kCreated ||
      dev.state() == DeviceState::kBroken) {
    return;
  }
  model_->hang_up();
  turn_until([&dev] { return dev.state() == DeviceState::kBroken; });
}

void SocketFarSide::change_config(uint8_t value) {
  device_.set(value);
  if (!model_->connected()) return;
  const uint64_t before = model_->counters().config_changes;
  model_->config_changed();
  turn_until([this, before] {
    const testing::ModelCounters counters = model_->counters();
    return counters.config_changes > before &&
           counters.config_changes == counters.config_acks;
  });
}

bool SocketFarSide::request(AddressSpace& memory, FakeNotifierBinding& binding,
                            QueueIndex vq, const VirtqueueConfig& ring,
                            uint16_t index) {
  constexpr uint64_t kEntries = 4;  // Behind flags and index.
  const uint64_t slot =
      ring.avail_gpa + kEntries + uint64_t{2} * (index % ring.num);
  const VringDesc desc = {kBuffer, 1, kVringDescWrite, 0};
  std::byte* table = memory.translate(ring.desc_gpa, sizeof(desc));
  std::byte* entry = memory.translate(slot, sizeof(uint16_t));
  if (table == nullptr || entry == nullptr) return false;
  std::memcpy(table, &desc, sizeof(desc));
  std::memset(entry, 0, sizeof(uint16_t));
  const auto after = static_cast<uint16_t>(index + 1);
  testing::set_avail_index(memory, ring, after);
  if (!binding.kick(vq)) return false;
  return turn_until([&] { return testing::used_index(memory, ring) == after; });
}

std::string SocketFarSide::compare(const Reference& reference,
                                   const AddressSpace& memory) {
  if (!reference.connected()) return "";
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    const Reference::Queue& queue = reference.queues[vq];
    // A ring starts when its back-end sees the first kick.
    const bool so = turn_until([&] {
      const ModelRingState ring = model_->ring(vq);
      if (ring.started != queue.started || ring.broken) return false;
      return !queue.started || ring.enabled == queue.enabled;
    });
    if (!so) {
      return absl::StrCat(
          "vq ", vq, ": the back-end has it otherwise: ", model_->trouble());
    }
  }
  if (reference.running() &&
      model_->accepted_features().has(kFeatureLogAll) != reference.log) {
    return "the back-end has LOG_ALL otherwise";
  }
  const size_t expected = reference.told_memory ? memory.sections().size() : 0;
  if (!turn_until([&] { return model_->memory_regions() == expected; })) {
    return absl::StrCat("the back-end has ", model_->memory_regions(),
                        " pieces of memory of ", expected);
  }
  return "";
}

std::string SocketFarSide::interrupt(
    std::unique_ptr<VhostDev>& dev, AddressSpace& memory,
    absl::FunctionRef<void(Completion)> operation, const Interrupted& how) {
  using By = Interrupted::By;
  const auto outcome = std::make_shared<Outcome>();
  const auto second = std::make_shared<Outcome>();
  int expected = 0;
  operation(Outcome::of(outcome));
  for (uint32_t i = 0; i < how.after; ++i) {
    static_cast<void>(loop_->run_once(std::chrono::microseconds(50)));
  }
  switch (how.by) {
    case By::kStop:
      dev->stop(StopReason::kVmPause, Outcome::of(second));
      expected = 1;
      break;
    case By::kForceStop:
      dev->force_stop(Outcome::of(second));
      expected = 1;
      break;
    case By::kSecond:
      dev->reset(Outcome::of(second));
      expected = 1;
      break;
    case By::kCancel:
      dev->cancel();
      break;
    case By::kDisconnect:
      model_->hang_up();
      break;
    case By::kRefusal:
      verdict_ = ModelVerdict::Kind::kRefuse;
      break;
    case By::kSilence:  // The end of it: this model does not fall silent.
      verdict_ = ModelVerdict::Kind::kHangUp;
      break;
    case By::kPlug: {
      const auto region = testing::add_memory(memory, uint64_t{1} << 32, 4096);
      static_cast<void>(memory.remove(uint64_t{1} << 32));
      break;
    }
    case By::kDestruction:
      dev.reset();
      settle();
      return outcome->calls <= 1 ? "" : "completed twice";
  }
  const bool over = turn_until(
      [&] { return outcome->calls > 0 && second->calls >= expected; });
  settle();
  verdict_ = ModelVerdict::Kind::kObey;
  if (!over) return "an operation did not end";
  if (outcome->calls > 1 || second->calls > 1) return "completed twice";
  return "";
}

}  // namespace vhost::model_based
