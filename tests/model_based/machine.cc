// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/machine.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost::model_based {
namespace {

constexpr uint16_t kMostOffered = 64;
constexpr auto kPatience = std::chrono::seconds(10);

std::string differs(absl::string_view what, absl::string_view is,
                    absl::string_view expected) {
  return absl::StrCat(what, " is ", is, ", expected ", expected);
}

}  // namespace

Machine::Machine(FarSide& far)
    : far_(far), guest_({.queues = kQueues}), context_(far.loop(), memory_) {
  static_cast<void>(testing::add_memory(memory_, 0, kRam));
  make_device();
}

Machine::~Machine() = default;

void Machine::make_device() {
  dev_.reset();
  dev_ = std::make_unique<VhostDev>(context_, far_.connect(), guest_, binding_,
                                    events_, nullptr, far_.options());
  binding_.masked.clear();  // What the device before left.
  if (!far_.serves_rings()) far_.change_config(reference_.config);
}

std::string Machine::take(const Step& step) {
  std::string wrong;
  switch (step.kind) {
    case Kind::kInit:
    case Kind::kStart:
    case Kind::kStartQueue:
    case Kind::kEnable:
    case Kind::kDisable:
      wrong = start_some(step);
      break;
    case Kind::kStop:
    case Kind::kForceStop:
    case Kind::kReset:
    case Kind::kStopQueue:
      wrong = stop_some(step);
      break;
    case Kind::kGetConfig:
    case Kind::kSetConfig:
    case Kind::kChangeConfig:
      wrong = use_config(step);
      break;
    case Kind::kMask:
    case Kind::kUnmask:
    case Kind::kSignal:
      wrong = change_mask(step);
      break;
    case Kind::kPlug:
    case Kind::kUnplug:
      wrong = change_memory(step);
      break;
    case Kind::kLogOn:
    case Kind::kLogOff:
      wrong = change_log(step.kind == Kind::kLogOn);
      break;
    case Kind::kOffer:
    case Kind::kComplete:
    case Kind::kStick:
    case Kind::kUnstick:
      if (far_.serves_rings()) {
        wrong = make_requests(step);
      } else {
        move_ring(step);
      }
      break;
    case Kind::kDisconnect:
      far_.disconnect(*dev_);
      reference_.disconnect();
      break;
    case Kind::kInterrupted:
      wrong = interrupted(decode_interrupted(step.value));
      break;
  }
  far_.settle();
  return wrong.empty() ? compare() : wrong;
}

std::string Machine::operate(absl::StatusCode expected,
                             absl::FunctionRef<void(Completion)> start) {
  const absl::Status status = far_.drive(*dev_, start);
  if (status.code() == expected) return "";
  return differs("outcome", status.ToString(),
                 absl::StatusCodeToString(expected));
}

// A ring that starts from its beginning was set up anew: the reference decides
// first, so that guest memory says so when the device looks.
std::string Machine::start_some(const Step& step) {
  const std::array<QueueIndex, 1> one = {QueueIndex{step.queue}};
  absl::StatusCode expected = absl::StatusCode::kOk;
  switch (step.kind) {
    case Kind::kInit:
      expected = reference_.init();
      return operate(expected,
                     [&](Completion done) { dev_->init(std::move(done)); });
    case Kind::kStart:
      expected = reference_.start();
      write_rings();
      return operate(expected,
                     [&](Completion done) { dev_->start(std::move(done)); });
    case Kind::kStartQueue:
      expected = reference_.start_queue(step.queue);
      write_rings();
      return operate(expected, [&](Completion done) {
        dev_->start_queue(one[0], std::move(done));
      });
    default: {
      const bool enabled = step.kind == Kind::kEnable;
      expected = reference_.set_enabled(step.queue, enabled);
      return operate(expected, [&](Completion done) {
        dev_->set_queues_enabled(one, enabled, std::move(done));
      });
    }
  }
}

std::string Machine::stop_some(const Step& step) {
  announce_bases();
  const auto reason = static_cast<StopReason>(step.value);
  switch (step.kind) {
    case Kind::kStop:
      return operate(reference_.stop(reason), [&](Completion done) {
        dev_->stop(reason, std::move(done));
      });
    case Kind::kForceStop:
      return operate(reference_.force_stop(), [&](Completion done) {
        dev_->force_stop(std::move(done));
      });
    case Kind::kReset:
      return operate(reference_.reset(),
                     [&](Completion done) { dev_->reset(std::move(done)); });
    default:
      return operate(reference_.stop_queue(step.queue), [&](Completion done) {
        dev_->stop_queue(QueueIndex{step.queue}, std::move(done));
      });
  }
}

std::string Machine::use_config(const Step& step) {
  std::array<std::byte, 1> byte = {static_cast<std::byte>(step.value)};
  if (step.kind == Kind::kChangeConfig) {
    // A back-end all of whose rings rest does not say so.
    const bool at_rest = std::none_of(
        reference_.queues.begin(), reference_.queues.end(),
        [](const Reference::Queue& queue) { return queue.started; });
    if (far_.serves_rings() && at_rest) return "";
    reference_.config = static_cast<uint8_t>(step.value);
    far_.change_config(reference_.config);
    return "";
  }
  const absl::StatusCode expected = reference_.use_config();
  if (step.kind == Kind::kSetConfig) {
    if (expected == absl::StatusCode::kOk) {
      reference_.config = static_cast<uint8_t>(step.value);
    }
    return operate(expected, [&](Completion done) {
      dev_->set_config(0, byte, ConfigWriter::kMigration, std::move(done));
    });
  }
  std::string wrong = operate(expected, [&](Completion done) {
    dev_->get_config(0, byte, std::move(done));
  });
  const auto read = static_cast<uint8_t>(byte[0]);
  if (wrong.empty() && expected == absl::StatusCode::kOk &&
      read != reference_.config) {
    wrong = differs("configuration", absl::StrCat(read),
                    absl::StrCat(reference_.config));
  }
  return wrong;
}

// An interrupt that is signalled while its vector is masked arrives with the
// unmask, not before and not never.
std::string Machine::change_mask(const Step& step) {
  const QueueIndex vq{step.queue};
  const VectorIndex vector{step.queue};
  Reference::Queue& queue = reference_.queues[step.queue];
  if (step.kind == Kind::kMask) {
    dev_->mask(vq);
    queue.masked = true;
    return "";
  }
  if (step.kind == Kind::kUnmask) {
    dev_->unmask(vq);
    queue.masked = false;
    return "";
  }
  if (!queue.started || far_.serves_rings()) return "";
  const uint64_t before = binding_.interrupts(vector);
  if (!far_.signal(step.queue)) return "no call notifier to signal";
  far_.settle();
  const uint64_t now = binding_.interrupts(vector);
  if (!queue.masked) {
    return now > before ? "" : "an interrupt did not arrive";
  }
  if (now != before) return "an interrupt arrived through a mask";
  dev_->unmask(vq);
  far_.settle();
  const bool arrived = binding_.interrupts(vector) > before;
  dev_->mask(vq);
  return arrived ? "" : "an interrupt signalled while masked was lost";
}

std::string Machine::change_memory(const Step& step) {
  const uint32_t place = step.queue;
  absl::Status status;
  if (step.kind == Kind::kPlug) {
    if (!reference_.plugs.insert(place).second) return "";
    memory_.begin();
    plugged_[place] = testing::add_memory(memory_, plug_gpa(place), kPlugSize);
    status = memory_.commit();
  } else {
    if (reference_.plugs.erase(place) == 0) return "";
    unplugged_.push_back(plugged_[place]);
    plugged_.erase(place);
    status = memory_.remove(plug_gpa(place));
  }
  if (status.ok() && far_.serves_rings()) {
    status = context_.run_until_memory_settled(kPatience);
  }
  return status.ok() ? "" : differs("commit", status.ToString(), "OK");
}

std::string Machine::change_log(bool on) {
  reference_.log = on;
  absl::Status status;
  if (on) {
    status = context_.listener().log_global_start();
  } else {
    context_.listener().log_global_stop();
  }
  far_.settle();
  if (status.ok()) status = context_.run_until_log_settled(kPatience);
  return status.ok() ? "" : differs("log", status.ToString(), "OK");
}

void Machine::move_ring(const Step& step) {
  Reference::Queue& queue = reference_.queues[step.queue];
  const auto open = static_cast<uint16_t>(queue.avail - queue.used);
  const auto idle = static_cast<uint16_t>(open - queue.stuck);
  switch (step.kind) {
    case Kind::kOffer:
      if (open + step.value > kMostOffered) return;
      queue.avail = static_cast<uint16_t>(queue.avail + step.value);
      break;
    case Kind::kComplete:
      if (!queue.started) return;
      queue.used = static_cast<uint16_t>(queue.used +
                                         std::min<uint32_t>(idle, step.value));
      break;
    case Kind::kStick:
      if (queue.started && idle > 0) ++queue.stuck;
      return;
    default:
      if (!queue.started && !queue.undrained) return;
      queue.used = static_cast<uint16_t>(queue.used + queue.stuck);
      queue.stuck = 0;
  }
  write_rings();
}

// Real requests, on a ring that runs.
std::string Machine::make_requests(const Step& step) {
  Reference::Queue& queue = reference_.queues[step.queue];
  if (step.kind != Kind::kOffer || !queue.started || !queue.enabled) return "";
  const QueueIndex vq{step.queue};
  for (uint32_t i = 0; i < step.value; ++i) {
    if (!far_.request(memory_, binding_, vq, guest_.queue(vq), queue.avail)) {
      return absl::StrCat("vq ", step.queue, ": request ", queue.avail,
                          " was not completed");
    }
    ++queue.avail;
    ++queue.used;
  }
  return "";
}

void Machine::write_rings() {
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    const Reference::Queue& queue = reference_.queues[vq];
    const VirtqueueConfig ring = guest_.queue(QueueIndex{vq});
    testing::set_avail_index(memory_, ring, queue.avail);
    testing::set_used_index(memory_, ring, queue.used);
  }
}

void Machine::announce_bases() {
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    const Reference::Queue& queue = reference_.queues[vq];
    far_.will_stop_at(vq, static_cast<uint16_t>(queue.used + queue.stuck));
  }
}

// What an interrupted operation leaves behind depends on where it was.  Checked
// is that it ends once, and that the device is as good as new afterwards.
std::string Machine::interrupted(const Interrupted& how) {
  for (Reference::Queue& queue : reference_.queues) {
    queue.used = static_cast<uint16_t>(queue.used + queue.stuck);
    queue.stuck = 0;
  }
  write_rings();
  announce_bases();
  const std::array<QueueIndex, 1> one = {QueueIndex{0}};
  std::string wrong = far_.interrupt(
      dev_, memory_,
      [&](Completion done) {
        switch (how.operation) {
          case Kind::kStart:
            return dev_->start(std::move(done));
          case Kind::kStop:
            return dev_->stop(StopReason::kVmPause, std::move(done));
          case Kind::kReset:
            return dev_->reset(std::move(done));
          case Kind::kStopQueue:
            return dev_->stop_queue(one[0], std::move(done));
          default:
            return dev_->set_queues_enabled(one, false, std::move(done));
        }
      },
      how);
  far_.settle();
  if (dev_ == nullptr) make_device();
  const auto ok = [&](absl::FunctionRef<void(Completion)> start) {
    if (wrong.empty()) wrong = operate(absl::StatusCode::kOk, start);
  };
  ok([&](Completion done) { dev_->force_stop(std::move(done)); });
  ok([&](Completion done) { dev_->init(std::move(done)); });
  ok([&](Completion done) { dev_->reset(std::move(done)); });
  for (Reference::Queue& queue : reference_.queues) {
    Reference::Queue fresh;
    fresh.masked = queue.masked;
    queue = fresh;
  }
  write_rings();
  reference_.state = DeviceState::kReady;
  reference_.told_memory = false;
  // What a change of memory or log met with in there is not the next one's
  // error.
  context_.run_until_memory_settled(kPatience).IgnoreError();
  context_.run_until_log_settled(kPatience).IgnoreError();
  // A log that the device was disturbed in is not tried again.
  if (std::string log = change_log(false); wrong.empty()) wrong = log;
  far_.settle();
  reference_.losses = static_cast<int>(events_.broken_with.size());
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    // A new device knows of no mask.
    if (reference_.queues[vq].masked) dev_->mask(QueueIndex{vq});
  }
  return wrong;
}

std::string Machine::compare() {
  if (dev_->state() != reference_.state) {
    return differs("state", to_string(dev_->state()),
                   to_string(reference_.state));
  }
  if (static_cast<int>(events_.broken_with.size()) != reference_.losses) {
    return differs("the number of losses told",
                   absl::StrCat(events_.broken_with.size()),
                   absl::StrCat(reference_.losses));
  }
  if (!events_.refused_memory.empty()) return "memory was refused";
  if (dev_->logging() != (reference_.running() && reference_.log)) {
    return dev_->logging() ? "the device logs" : "the device does not log";
  }
  for (uint32_t vq = 0; vq < kQueues; ++vq) {
    if (std::string wrong = compare_queue(vq); !wrong.empty()) {
      return absl::StrCat("vq ", vq, ": ", wrong);
    }
  }
  for (const std::weak_ptr<const MemoryRegion>& region : unplugged_) {
    if (!region.expired()) return "removed memory is not let go";
  }
  unplugged_.clear();
  return far_.compare(reference_, memory_);
}

std::string Machine::compare_queue(uint32_t vq) {
  const Reference::Queue& queue = reference_.queues[vq];
  if (dev_->queue_started(QueueIndex{vq}) != queue.started) {
    return differs("started", queue.started ? "false" : "true", "the opposite");
  }
  if (binding_.kick_notifiers.contains(vq) != queue.started) {
    return queue.started ? "no kick notifier is bound"
                         : "a kick notifier is still bound";
  }
  if (queue.started && binding_.masked.contains(vq) != queue.masked) {
    return queue.masked ? "its vector is not masked" : "its vector is masked";
  }
  if (reference_.state != DeviceState::kReady) return "";
  if (queue.position == Reference::Position::kLost) return "";
  const bool fresh = queue.position == Reference::Position::kFresh;
  const uint32_t expected = fresh ? 0 : queue.base;
  const uint32_t is = to_int(dev_->queue_base(QueueIndex{vq}));
  if (is == expected) return "";
  return differs("base", absl::StrCat(is), absl::StrCat(expected));
}

}  // namespace vhost::model_based
