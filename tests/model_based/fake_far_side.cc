// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/fake_far_side.h"

#include <chrono>
#include <cstddef>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace vhost::model_based {
namespace {

using testing::Completes;
using testing::FakeQueue;
using testing::FakeVhostOps;

constexpr auto kDrainTimeout = std::chrono::seconds(1);
// Behind every limit an operation has.
constexpr auto kLongEnough = std::chrono::minutes(2);

// How often a completion was called, and with what.
struct Outcome {
  int calls = 0;
  absl::Status status = absl::UnknownError("not over");

  static Completion of(const std::shared_ptr<Outcome>& outcome) {
    return [outcome](absl::Status got) {
      ++outcome->calls;
      outcome->status = std::move(got);
    };
  }
};

}  // namespace

VhostDev::Options FakeFarSide::options() const {
  VhostDev::Options options;
  options.queues = QueueMap::identity(kQueues);
  options.config_size = 1;
  options.drain_timeout = kDrainTimeout;
  return options;
}

std::unique_ptr<VhostOps> FakeFarSide::connect() {
  auto ops = std::make_unique<FakeVhostOps>();
  ops->completes = completes_;
  ops->backend.config = {static_cast<std::byte>(config_)};
  ops_ = ops.get();
  return ops;
}

absl::Status FakeFarSide::drive(VhostDev&,
                                absl::FunctionRef<void(Completion)> start) {
  const auto outcome = std::make_shared<Outcome>();
  start(Outcome::of(outcome));
  if (outcome->calls != 0) return absl::InternalError("completed in the call");
  loop_.run_ready();
  if (outcome->calls == 0) loop_.advance(2 * kDrainTimeout);
  if (outcome->calls > 1) return absl::InternalError("completed twice");
  return outcome->status;
}

void FakeFarSide::disconnect(VhostDev&) {
  ops_->lose(absl::UnavailableError("the back-end is gone"));
}

void FakeFarSide::change_config(uint8_t value) {
  config_ = value;
  ops_->change_config(0, {static_cast<std::byte>(value)});
}

bool FakeFarSide::signal(uint32_t vq) {
  return ops_->signal_call(BackendQueue{vq});
}

void FakeFarSide::will_stop_at(uint32_t vq, uint16_t base) {
  ops_->backend.harvests[vq] = VringBase{base};
}

std::string FakeFarSide::compare(const Reference& reference,
                                 const AddressSpace& memory) {
  if (!ops_->misuse.empty()) {
    return absl::StrCat("the back-end was misused: ", ops_->misuse.front());
  }
  if (loop_.posted() != 0) return "something is still posted";
  if (!reference.connected()) {
    return ops_->open() ? "the back-end is still open" : "";
  }
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    const Reference::Queue& expected = reference.queues[vq];
    const FakeQueue& queue = ops_->backend.queues[vq];
    if (queue.started != expected.started) {
      return absl::StrCat("vq ", vq, ": the back-end ",
                          queue.started ? "runs it" : "does not run it");
    }
    if (!queue.started) continue;
    if (queue.log_used != reference.log) {
      return absl::StrCat("vq ", vq, ": the back-end ",
                          queue.log_used ? "logs it" : "does not log it");
    }
    if (queue.enabled != expected.enabled) {
      return absl::StrCat("vq ", vq, ": the back-end has it ",
                          queue.enabled ? "enabled" : "disabled");
    }
    if (to_int(queue.base) != expected.base) {
      return absl::StrCat("vq ", vq, ": started at ", to_int(queue.base),
                          ", expected ", expected.base);
    }
  }
  if (reference.running() &&
      ops_->backend.features->has(kFeatureLogAll) != reference.log) {
    return "the back-end has LOG_ALL otherwise";
  }
  return reference.told_memory ? compare_memory(memory) : "";
}

std::string FakeFarSide::compare_memory(const AddressSpace& memory) const {
  const std::vector<MemorySection> sections = memory.sections();
  if (sections.size() != ops_->backend.memory.size()) {
    return absl::StrCat("the back-end has ", ops_->backend.memory.size(),
                        " pieces of memory of ", sections.size());
  }
  for (const MemorySection& section : sections) {
    const auto found = ops_->backend.memory.find(section.gpa);
    if (found == ops_->backend.memory.end() ||
        found->second.size != section.size) {
      return absl::StrCat("the back-end lacks memory at ", section.gpa);
    }
  }
  return "";
}

std::string FakeFarSide::interrupt(
    std::unique_ptr<VhostDev>& dev, AddressSpace& memory,
    absl::FunctionRef<void(Completion)> operation, const Interrupted& how) {
  using By = Interrupted::By;
  const auto outcome = std::make_shared<Outcome>();
  const auto second = std::make_shared<Outcome>();
  ops_->completes = Completes::kOnRequest;
  operation(Outcome::of(outcome));
  for (uint32_t i = 0; i < how.after; ++i) {
    loop_.run_ready();
    if (!ops_->complete_next()) break;
  }
  bool expect_second = false;
  switch (how.by) {
    case By::kStop:
      dev->stop(StopReason::kVmPause, Outcome::of(second));
      expect_second = true;
      break;
    case By::kForceStop:
      dev->force_stop(Outcome::of(second));
      expect_second = true;
      break;
    case By::kCancel:
      dev->cancel();
      break;
    case By::kDisconnect:
      ops_->lose(absl::UnavailableError("the back-end is gone"));
      break;
    case By::kSilence:
      loop_.advance(kLongEnough);
      break;
    case By::kRefusal: {
      for (const char* verb : {"SetFeatures", "Configure", "Go", "Quiesce",
                               "Harvest", "SetQueuesEnabled", "ResetDevice"}) {
        ops_->refuse_next(verb, absl::AbortedError("no"));
      }
      break;
    }
    case By::kSecond:
      dev->reset(Outcome::of(second));
      expect_second = true;
      break;
    case By::kPlug: {
      const auto region = testing::add_memory(memory, uint64_t{1} << 32, 4096);
      static_cast<void>(memory.remove(uint64_t{1} << 32));
      break;
    }
    case By::kDestruction:
      dev.reset();
      ops_ = nullptr;
      break;
  }
  // All that is left is answered, one after the other.
  while (ops_ != nullptr) {
    loop_.run_ready();
    if (ops_->complete_next()) continue;
    loop_.advance(kDrainTimeout);
    if (ops_->under_way() == 0 && loop_.posted() == 0) break;
  }
  loop_.run_ready();
  if (how.by == By::kDestruction) {
    return outcome->calls <= 1 ? "" : "completed twice";
  }
  // Plans that nothing met are forgotten with the ops' plan list.
  ops_->forget_plans();
  ops_->completes = completes_;
  if (outcome->calls != 1) {
    return absl::StrCat("completed ", outcome->calls, " times");
  }
  if (expect_second && second->calls != 1) {
    return absl::StrCat("the second operation completed ", second->calls,
                        " times");
  }
  return "";
}

}  // namespace vhost::model_based
