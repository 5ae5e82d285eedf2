// SPDX-License-Identifier: Apache-2.0
#include "hw/mmio/mmio_registers.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace vhost {
namespace {

using Kind = MmioAction::Kind;

constexpr uint8_t kDriverThere = kStatusAcknowledge | kStatusDriver;

// Registers are little endian whatever the host is.
uint32_t load_32(std::span<const std::byte> bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value |= std::to_integer<uint32_t>(bytes[i]) << (8 * i);
  }
  return value;
}

void store(uint32_t value, std::span<std::byte> out) {
  for (size_t i = 0; i < 4; ++i) {
    out[i] = static_cast<std::byte>(value >> (8 * i));
  }
}

constexpr uint32_t low_half(uint64_t value) {
  return static_cast<uint32_t>(value);
}
constexpr uint32_t high_half(uint64_t value) {
  return static_cast<uint32_t>(value >> 32);
}

constexpr bool is_access_size(size_t size) {
  return size == 1 || size == 2 || size == 4 || size == 8;
}

// `word` of 32 bits each.
uint32_t feature_word(FeatureSet features, uint32_t word) {
  if (word >= FeatureSet::kBits / 32) return 0;
  const uint64_t half = word < 2 ? features.low() : features.high();
  return word % 2 == 0 ? low_half(half) : high_half(half);
}

}  // namespace

MmioRegisters::MmioRegisters(Setup setup)
    : setup_(std::move(setup)),
      queues_(setup_.queue_sizes.size()),
      config_(setup_.config_size) {}

MmioAction MmioRegisters::refuse() {
  ++refused_;
  return {};
}

// -- What the driver reads --------------------------------------------------

void MmioRegisters::read(uint64_t offset, std::span<std::byte> out) const {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset >= mmio::kConfig) {
    const uint64_t at = offset - mmio::kConfig;
    if (!is_access_size(out.size()) || at >= config_.size()) return;
    const size_t size = std::min<size_t>(out.size(), config_.size() - at);
    std::memcpy(out.data(), config_.data() + at, size);
    return;
  }
  if (out.size() == 4 && offset % 4 == 0) store(read_register(offset), out);
}

uint32_t MmioRegisters::read_register(uint64_t offset) const {
  const bool there = queue_sel_ < queues_.size();
  const Queue selected = there ? queues_[queue_sel_] : Queue();
  switch (offset) {
    case mmio::kMagicValue:
      return mmio::kMagic;
    case mmio::kVersion:
      return 2;
    case mmio::kDeviceId:
      return setup_.device_id;
    case mmio::kVendorId:
      return setup_.vendor_id;
    case mmio::kDeviceFeatures:
      return feature_word(offered_, device_features_sel_);
    case mmio::kQueueNumMax:
      return max_num(queue_sel_);
    case mmio::kQueueReady:
      return selected.state >= QueueState::kOn ? 1 : 0;
    case mmio::kQueueReset:
      return selected.resetting ? 1 : 0;
    case mmio::kInterruptStatus:
      return interrupt_status();
    case mmio::kStatus:
      return status_;
    case mmio::kShmLenLow:
      return low_half(shared_memory(&VirtioMmio::SharedMemory::size));
    case mmio::kShmLenHigh:
      return high_half(shared_memory(&VirtioMmio::SharedMemory::size));
    case mmio::kShmBaseLow:
      return low_half(shared_memory(&VirtioMmio::SharedMemory::gpa));
    case mmio::kShmBaseHigh:
      return high_half(shared_memory(&VirtioMmio::SharedMemory::gpa));
    case mmio::kConfigGeneration:
      return generation_;
    default:
      return 0;
  }
}

// Nobody tells of interrupts that an irqfd carried: while a queue may have
// caused one, it may have been this one.  From the moment the start is asked
// for, because a back-end interrupts before it is known to be over.
uint32_t MmioRegisters::interrupt_status() const {
  const bool served =
      asks_device() &&
      std::any_of(queues_.begin(), queues_.end(), [](const Queue& queue) {
        return queue.state != QueueState::kOff &&
               queue.state != QueueState::kAsked;
      });
  return (served ? mmio::kInterruptUsed : 0) |
         (config_interrupt_ ? mmio::kInterruptConfig : 0);
}

uint64_t MmioRegisters::shared_memory(
    uint64_t VirtioMmio::SharedMemory::*field) const {
  for (const VirtioMmio::SharedMemory& region : setup_.shared_memory) {
    if (region.id == shm_sel_) return region.*field;
  }
  return UINT64_MAX;
}

// -- What the driver writes -------------------------------------------------

MmioAction MmioRegisters::write(uint64_t offset,
                                std::span<const std::byte> bytes) {
  if (offset >= mmio::kConfig) return write_config(offset, bytes);
  if (bytes.size() != 4 || offset % 4 != 0) return refuse();
  return write_register(offset, load_32(bytes));
}

MmioAction MmioRegisters::write_register(uint64_t offset, uint32_t value) {
  switch (offset) {
    case mmio::kDeviceFeaturesSel:
      device_features_sel_ = value;
      return {};
    case mmio::kDriverFeaturesSel:
      driver_features_sel_ = value;
      return {};
    case mmio::kDriverFeatures:
      return write_driver_features(value);
    case mmio::kQueueSel:
      queue_sel_ = value;
      return {};
    case mmio::kShmSel:
      shm_sel_ = value;
      return {};
    case mmio::kQueueNotify:
      return write_notify(value);
    case mmio::kInterruptAck:
      if ((value & mmio::kInterruptConfig) != 0) config_interrupt_ = false;
      return {};
    case mmio::kStatus:
      return write_status(value);
    case mmio::kQueueNum:
    case mmio::kQueueReady:
    case mmio::kQueueReset:
    case mmio::kQueueDescLow:
    case mmio::kQueueDescHigh:
    case mmio::kQueueDriverLow:
    case mmio::kQueueDriverHigh:
    case mmio::kQueueDeviceLow:
    case mmio::kQueueDeviceHigh:
      return write_queue(offset, value);
    default:
      return refuse();
  }
}

MmioAction MmioRegisters::write_driver_features(uint32_t value) {
  const bool settled = (status_ & kStatusFeaturesOk) != 0;
  if (settled || resetting()) return refuse();
  if (driver_features_sel_ >= driver_features_.size()) {
    return value == 0 ? MmioAction() : refuse();
  }
  driver_features_[driver_features_sel_] = value;
  return {};
}

MmioAction MmioRegisters::write_config(uint64_t offset,
                                       std::span<const std::byte> bytes) {
  const uint64_t at = offset - mmio::kConfig;
  const size_t size = bytes.size();
  const bool inside = is_access_size(size) && at < config_.size() &&
                      size <= config_.size() - at;
  const bool settled = (status_ & kStatusFeaturesOk) != 0;
  if (!inside || !settled || resetting()) return refuse();
  touched_ = true;
  MmioAction action;
  action.kind = Kind::kWriteConfig;
  action.offset = static_cast<uint32_t>(at);
  action.size = static_cast<uint32_t>(size);
  std::copy(bytes.begin(), bytes.end(), action.bytes.begin());
  return action;
}

// -- Status -----------------------------------------------------------------

MmioAction MmioRegisters::write_status(uint32_t value) {
  if (value == 0) return reset();
  if (resetting() || (value & ~uint32_t{mmio::kKnownStatus}) != 0)
    return refuse();
  // NEEDS_RESET is the device's and may have come after the driver looked.
  const auto without_ours = [](uint32_t status) {
    return static_cast<uint8_t>(status & ~uint32_t{kStatusNeedsReset});
  };
  uint8_t wanted = without_ours(value);
  const uint8_t before = without_ours(status_);
  if ((before & ~wanted) != 0) return refuse();
  const auto adds = [&](uint8_t bit) {
    return (wanted & bit) != 0 && (before & bit) == 0;
  };
  if (adds(kStatusFeaturesOk) &&
      ((wanted & kDriverThere) != kDriverThere || !acceptable())) {
    wanted = static_cast<uint8_t>(wanted & ~kStatusFeaturesOk);
    ++refused_;
  }
  if (adds(kStatusDriverOk) &&
      ((before & kStatusFeaturesOk) == 0 || (wanted & kStatusFailed) != 0)) {
    wanted = static_cast<uint8_t>(wanted & ~kStatusDriverOk);
    ++refused_;
  }
  const bool starts = adds(kStatusDriverOk);
  status_ = static_cast<uint8_t>(status_ | wanted);
  if (!starts) return {};
  phase_ = Phase::kStarting;
  touched_ = true;
  MmioAction action;
  action.kind = Kind::kStart;
  return action;
}

MmioAction MmioRegisters::reset() {
  if (!touched_) {
    clear();
    return {};
  }
  MmioAction action;
  action.kind = Kind::kReset;
  action.joins = resetting();
  phase_ = Phase::kResetting;
  return action;
}

void MmioRegisters::clear() {
  ++resets_;
  phase_ = Phase::kSetUp;
  status_ = 0;
  touched_ = false;
  device_features_sel_ = 0;
  driver_features_sel_ = 0;
  driver_features_ = {};
  queue_sel_ = 0;
  shm_sel_ = 0;
  config_interrupt_ = false;
  std::fill(queues_.begin(), queues_.end(), Queue());
}

FeatureSet MmioRegisters::driver_features() const {
  const auto two = [this](size_t at) {
    return driver_features_[at] | uint64_t{driver_features_[at + 1]} << 32;
  };
  return FeatureSet::from_words(two(0), two(2));
}

bool MmioRegisters::acceptable() const {
  const FeatureSet features = driver_features();
  return offered_.contains(features) && features.has(kFeatureVersion1);
}

FeatureSet MmioRegisters::accepted() const {
  return (status_ & kStatusFeaturesOk) != 0 ? driver_features() : FeatureSet();
}

bool MmioRegisters::live() const {
  return (status_ & kStatusDriverOk) != 0 && !resetting();
}

// -- What became of actions -------------------------------------------------

void MmioRegisters::begin(const MmioAction& action) {
  if (action.kind != Kind::kStartQueue) return;
  Queue& queue = queues_[to_int(action.queue)];
  if (queue.state == QueueState::kAsked) queue.state = QueueState::kStarting;
}

bool MmioRegisters::complete(const MmioAction& action, bool ok) {
  switch (action.kind) {
    case Kind::kReset:
      if (!resetting()) return false;
      if (!ok) return fail();
      clear();
      return false;
    case Kind::kStart:
      if (phase_ != Phase::kStarting) return false;
      if (!ok) return lose_run();
      phase_ = Phase::kRunning;
      return false;
    case Kind::kStartQueue:
    case Kind::kStopQueue:
      // A reset that was asked for meanwhile has the last word.
      if (resetting()) return false;
      complete_queue(action, ok);
      return !ok && fail();
    case Kind::kWriteConfig:
      if (!ok) ++refused_;
      return false;
    case Kind::kNone:
    case Kind::kNotify:
      return false;
  }
  return false;
}

bool MmioRegisters::lose_run() {
  if (!asks_device()) return false;
  phase_ = Phase::kFailed;
  return fail();
}

bool MmioRegisters::fail() {
  if (status_ == 0 || (status_ & kStatusNeedsReset) != 0) return false;
  status_ = static_cast<uint8_t>(status_ | kStatusNeedsReset);
  return announce_config();
}

bool MmioRegisters::set_config(std::span<const std::byte> bytes) {
  if (bytes.size() != config_.size() ||
      std::equal(bytes.begin(), bytes.end(), config_.begin())) {
    return false;
  }
  std::copy(bytes.begin(), bytes.end(), config_.begin());
  ++generation_;
  return true;
}

bool MmioRegisters::announce_config() {
  if ((status_ & kStatusDriverOk) == 0) return false;
  config_interrupt_ = true;
  return true;
}

}  // namespace vhost
