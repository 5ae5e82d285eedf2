// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/front_end_scenario.h"

#include <sys/eventfd.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/user/socket_io.h"
#include "tests/fuzz/front_end_peer.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {
namespace {

constexpr uint32_t kConfigSize = 60;
constexpr uint64_t kGpa = 1 << 20;
constexpr uint64_t kUser = 0x7f00'0000'0000;
constexpr uint64_t kMemory = 1 << 16;
// Turns of both sides in which nothing came for the back-end to read: the verb
// will never end.
constexpr int kIdleTurns = 3;
// As many as there are, and some: longer runs only take longer.
constexpr size_t kMostVerbs = 28;

class Sink final : public BackendSink, public BackendServices {
 public:
  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue) override { return absl::OkStatus(); }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status&) override { ++lost; }
  BackendServices& services() override { return *this; }

  int lost = 0;
};

// The table after a MemoryDiff, for a back-end that takes only whole ones.
class Table final : public MemorySnapshot {
 public:
  explicit Table(std::vector<MemoryTableEntry> entries)
      : entries_(std::move(entries)) {}
  uint64_t generation() const override { return 1; }
  size_t size() const override { return entries_.size(); }
  std::span<const MemoryTableEntry> entries() const override {
    return entries_;
  }
  const MemoryTableEntry* find(uint64_t, uint64_t) const override {
    return nullptr;
  }

 private:
  std::vector<MemoryTableEntry> entries_;
};

class Scenario {
 public:
  Scenario(const uint8_t* data, size_t size)
      : input_(data, size), fd_(::eventfd(0, EFD_CLOEXEC)) {}

  FrontEndScenario run() {
    auto pair = make_pair();
    require(pair.ok(), "socket pair");
    FrontEndPeer peer(std::move(pair->second), input_);
    ops_ = make_vhost_user_ops(
        UseSocket{std::make_shared<UniqueFd>(std::move(pair->first))},
        {.extra_protocol_features = bit_mask(kProtocolInbandNotifications)});
    ops_->attach(nullptr, &sink_);
    const uint8_t first = input_.byte();
    bool open = drive(peer, Open{.config_size = kConfigSize}, first);
    if (open) check_traits();
    for (size_t i = 0; open && i < kMostVerbs && !input_.empty(); ++i) {
      const uint8_t control = input_.byte();
      drive(peer, verb(control), control);
      open = sink_.lost == 0;
    }
    require(sink_.lost <= 1, "a loss is told once");
    return std::move(out_);
  }

 private:
  // Whether it succeeded.
  bool drive(FrontEndPeer& peer, Verb verb, uint8_t control) {
    const std::string name(verb_name(verb));
    const MonotonicTime now = std::chrono::steady_clock::now();
    int completed = 0;
    BatchResult result;
    const Pending pending = ops_->submit(
        std::move(verb), now + std::chrono::seconds(10), [&](BatchResult got) {
          ++completed;
          result = std::move(got);
        });
    for (int idle = 0; idle < kIdleTurns && completed == 0;) {
      idle = peer.serve((control & 0x80) != 0) ? 0 : idle + 1;
      ops_->pump(now);
    }
    if (completed == 0) {
      out_.silent = true;
      ops_->close(absl::DeadlineExceededError("no answer"));
      ++sink_.lost;  // Closing is not told: it ends the scenario likewise.
    }
    require(completed == 1, absl::StrCat(name, " completes once"));
    check_result(name, result);
    return result.status.ok();
  }

  void check_result(const std::string& name, const BatchResult& result) {
    if (result.status.ok()) {
      require(result.refused.empty() && result.unknown.empty(),
              absl::StrCat(name, " succeeded as a whole"));
      out_.done.insert(name);
      return;
    }
    require(!result.status.message().empty(), "an error says something");
    out_.refused |= absl::IsAborted(result.status);
    out_.malformed |= absl::IsDataLoss(result.status);
    if (!result.unknown.empty()) {
      require(!absl::IsAborted(result.status), "unknown is not refused");
    }
  }

  void check_traits() {
    const BackendTraits& traits = ops_->traits();
    require(traits.max_queues >= 1 && traits.max_queues <= kMaxQueues,
            "a back-end has 1 to 1024 queues");
    require((traits.protocol_features & ~traits.offered_protocol_features) == 0,
            "what is in use was offered");
  }

  Verb verb(uint8_t control);
  Verb later_verb(uint8_t which);
  Configure configure();
  MemoryDiff memory(bool add);
  VringSetup ring(uint32_t index);

  Input input_;
  UniqueFd fd_;
  Sink sink_;
  std::unique_ptr<VhostOps> ops_;
  FrontEndScenario out_;
};

VringSetup Scenario::ring(uint32_t index) {
  VringSetup out;
  out.index = BackendQueue{index};
  out.num = 256;
  out.addr.desc = {.gpa = kGpa, .size = 4096, .user = kUser};
  out.addr.avail = {.gpa = kGpa + 4096, .size = 518, .user = kUser + 4096};
  out.addr.used = {.gpa = kGpa + 8192, .size = 2054, .user = kUser + 8192};
  out.kick = NotifyRef::by_fd(fd_);
  out.call = NotifyRef::by_fd(fd_);
  out.err = NotifyRef::by_fd(fd_);
  return out;
}

MemoryDiff Scenario::memory(bool add) {
  MemoryTableEntry entry;
  entry.gpa = kGpa;
  entry.size = kMemory;
  entry.user = kUser;
  entry.fd = fd_;
  MemoryDiff diff;
  std::vector<MemoryTableEntry> after;
  (add ? diff.added : diff.removed).push_back(entry);
  if (add) after.push_back(entry);
  diff.after = std::make_shared<const Table>(std::move(after));
  return diff;
}

Configure Scenario::configure() {
  Configure out;
  out.memory = memory(true);
  out.queues.push_back(ring(0));
  out.queues.push_back(ring(1));
  return out;
}

// Verbs that came later have the controls at the end: the corpus of before
// means what it meant.
Verb Scenario::later_verb(uint8_t which) {
  const UpdateIotlb page = {.entry = {.iova = kGpa,
                                      .size = 4096,
                                      .gpa = kGpa,
                                      .access = IotlbAccess::kBoth},
                            .user = kUser};
  switch (which) {
    case 0:
      return page;
    case 1:
      return KickQueues{{BackendQueue{0}, BackendQueue{1}}};
    case 2: {
      Configure out = configure();
      out.iotlb = {page, page};
      return out;
    }
    default:
      return SetFeatures{
          .features = {kFeatureVersion1, kFeatureAccessPlatform}};
  }
}

Verb Scenario::verb(uint8_t control) {
  constexpr uint8_t kVerbs = 21;
  constexpr uint8_t kLater = 5 * kVerbs;
  constexpr uint8_t kMischief = 0x80;
  const BackendQueue q0{0};
  const BackendQueue q1{1};
  const uint8_t low = control % kMischief;
  if (low >= kLater) {
    return later_verb(static_cast<uint8_t>((low - kLater) % 4));
  }
  switch (control % kVerbs) {
    case 0:
      return SetFeatures{.features = {kFeatureVersion1}};
    case 1:
      return GetInflight{.num_queues = 2, .queue_size = 256};
    case 2:
      return configure();
    case 3: {
      Go go;
      go.queues.push_back({.index = q0, .kick = NotifyRef::by_fd(fd_)});
      go.queues.push_back({.index = q1, .kick = NotifyRef::by_fd(fd_)});
      return go;
    }
    case 4:
      return DriverOk();
    case 5:
      return Quiesce{.queues = {q0, q1}};
    case 6:
      return Harvest{.queues = {q0, q1}};
    case 7:
      return ResetStatus();
    case 8:
      return ResetDevice();
    case 9: {
      SetQueuesEnabled set;
      set.queues.push_back({.index = q1, .enabled = true});
      return set;
    }
    case 10:
      return UpdateMemory{.diff = memory(true)};
    case 11:
      return UpdateMemory{.diff = memory(false)};
    case 12: {
      SetCalls calls;
      calls.queues.push_back({.index = q0, .call = NotifyRef::by_fd(fd_)});
      return calls;
    }
    case 13:
      return SetLog{.log = {.size = 4096, .fd = fd_}};
    case 14:
      return GetConfig{.offset = 0, .size = kConfigSize};
    case 15:
      return SetConfig{.offset = 0, .bytes = {std::byte{1}}};
    case 16:
      return SetDeviceStateFd{.direction = StateDirection::kSave, .fd = fd_};
    case 17:
      return CheckDeviceState();
    case 18:
      return SetMtu{.mtu = 1500};
    case 19:
      return SendRarp();
    default: {
      SetRingLogging logging;
      logging.queues.push_back(ring(0));
      return logging;
    }
  }
}

}  // namespace

FrontEndScenario run_front_end_scenario(const uint8_t* data, size_t size) {
  return Scenario(data, size).run();
}

}  // namespace vhost::user
