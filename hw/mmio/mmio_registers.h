// SPDX-License-Identifier: Apache-2.0
#ifndef HW_MMIO_MMIO_REGISTERS_H_
#define HW_MMIO_MMIO_REGISTERS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_device.h"
#include "vhostdev/virtio_mmio.h"
#include "vhostdev/vring.h"

namespace vhost {

// Where the registers lie, named as in the specification.
// Source: VIRTIO 1.3, "MMIO Device Register Layout".
namespace mmio {
inline constexpr uint64_t kMagicValue = 0x000;
inline constexpr uint64_t kVersion = 0x004;
inline constexpr uint64_t kDeviceId = 0x008;
inline constexpr uint64_t kVendorId = 0x00c;
inline constexpr uint64_t kDeviceFeatures = 0x010;
inline constexpr uint64_t kDeviceFeaturesSel = 0x014;
inline constexpr uint64_t kDriverFeatures = 0x020;
inline constexpr uint64_t kDriverFeaturesSel = 0x024;
inline constexpr uint64_t kQueueSel = 0x030;
inline constexpr uint64_t kQueueNumMax = 0x034;
inline constexpr uint64_t kQueueNum = 0x038;
inline constexpr uint64_t kQueueReady = 0x044;
inline constexpr uint64_t kQueueNotify = kMmioQueueNotifyOffset;
inline constexpr uint64_t kInterruptStatus = 0x060;
inline constexpr uint64_t kInterruptAck = 0x064;
inline constexpr uint64_t kStatus = 0x070;
inline constexpr uint64_t kQueueDescLow = 0x080;
inline constexpr uint64_t kQueueDescHigh = 0x084;
inline constexpr uint64_t kQueueDriverLow = 0x090;
inline constexpr uint64_t kQueueDriverHigh = 0x094;
inline constexpr uint64_t kQueueDeviceLow = 0x0a0;
inline constexpr uint64_t kQueueDeviceHigh = 0x0a4;
inline constexpr uint64_t kShmSel = 0x0ac;
inline constexpr uint64_t kShmLenLow = 0x0b0;
inline constexpr uint64_t kShmLenHigh = 0x0b4;
inline constexpr uint64_t kShmBaseLow = 0x0b8;
inline constexpr uint64_t kShmBaseHigh = 0x0bc;
inline constexpr uint64_t kQueueReset = 0x0c0;
inline constexpr uint64_t kConfigGeneration = 0x0fc;
inline constexpr uint64_t kConfig = kMmioConfigOffset;

inline constexpr uint32_t kMagic = 0x74726976;  // "virt".
inline constexpr uint32_t kInterruptUsed = 1;
inline constexpr uint32_t kInterruptConfig = 2;
// What a driver may write to Status, and NEEDS_RESET.
inline constexpr uint8_t kKnownStatus = kStatusAcknowledge | kStatusDriver |
                                        kStatusDriverOk | kStatusFeaturesOk |
                                        kStatusNeedsReset | kStatusFailed;
// Bytes between kConfig and the end of the window.
inline constexpr uint32_t kMaxConfig = kMmioWindowSize - kMmioConfigOffset;
}  // namespace mmio

// What a write asks for besides the registers that it changed.
struct MmioAction {
  enum class Kind : uint8_t {
    kNone,
    kNotify,  // `queue`.
    kStart,
    kReset,
    kStartQueue,   // `queue`.
    kStopQueue,    // `queue`.
    kWriteConfig,  // `size` of `bytes` at `offset`.
  };
  Kind kind = Kind::kNone;
  bool joins = false;  // kReset: one is under way, and this waits for it.
  QueueIndex queue{};
  uint32_t offset = 0;
  uint32_t size = 0;
  std::array<std::byte, 8> bytes{};
};

// The registers of a device and what the specification says of them, without
// anything that takes time: an action that does is handed to begin() when it is
// begun and to complete() when it is over; what a driver sees until then and
// afterwards follows from that.
//
//   kSetUp --DRIVER_OK--> kStarting --ok--> kRunning
//     ^                       |                |
//     |                    (failed)     (resume failed)
//     |                       v                |
//     |                    kFailed <-----------+
//     +--(ok)-- kResetting <-- 0 written, in any phase
//
// Where nothing was asked of the device since the last reset, one is over at
// once.  Writes against the rules change nothing and are counted.
class MmioRegisters {
 public:
  struct Setup {
    uint32_t device_id = 0;
    uint32_t vendor_id = 0;
    std::vector<uint16_t> queue_sizes;  // Most of each; 0: no such queue.
    uint32_t config_size = 0;           // At most mmio::kMaxConfig.
    std::vector<VirtioMmio::SharedMemory> shared_memory;
  };

  explicit MmioRegisters(Setup setup);

  void offer(FeatureSet features) { offered_ = features; }

  // Any offset, any size.
  void read(uint64_t offset, std::span<std::byte> out) const;
  [[nodiscard]] MmioAction write(uint64_t offset,
                                 std::span<const std::byte> bytes);

  // `action` is asked of the device now.
  void begin(const MmioAction& action);
  // It is over.  A reset that is not ok stays under way.  Returns whether the
  // driver has to be interrupted.
  [[nodiscard]] bool complete(const MmioAction& action, bool ok);
  // The device does not run any more although the driver did not stop it.
  // Returns as complete().
  [[nodiscard]] bool lose_run();
  // Sets NEEDS_RESET, if there is a driver.  Returns as complete().
  [[nodiscard]] bool fail();

  // Replaces the configuration space; returns whether something differs, and
  // then ConfigGeneration does.
  bool set_config(std::span<const std::byte> bytes);
  // Tells the driver of a change.  Returns as complete().
  [[nodiscard]] bool announce_config();

  // Errors: as VirtioMmio's.
  absl::StatusOr<VirtioMmio::State> save() const;
  absl::Status load(const VirtioMmio::State& state);

  uint8_t status() const { return status_; }
  // What holds since FEATURES_OK; empty before.
  FeatureSet accepted() const;
  bool resetting() const { return phase_ == Phase::kResetting; }
  bool running() const { return phase_ == Phase::kRunning; }
  bool live() const;
  // What the device is to serve, for the core.
  VirtqueueConfig queue(QueueIndex vq) const;
  uint32_t queues() const { return static_cast<uint32_t>(queues_.size()); }
  const Setup& setup() const { return setup_; }

  uint64_t refused() const { return refused_; }
  uint64_t resets() const { return resets_; }

 private:
  enum class Phase : uint8_t {
    kSetUp,
    kStarting,
    kRunning,
    kFailed,
    kResetting,
  };
  // Where one queue stands.  QueueReady reads 1 from kOn on.
  //
  //   kOff --ready, set up--> kOn --0 or reset--> kStopping --ok--> kOff
  //    |                       ^                      |
  //    +--ready, live--> kAsked --begun--> kStarting  +--failed--> kStuck
  enum class QueueState : uint8_t {
    kOff,
    kAsked,     // start_queue waits for its turn.
    kStarting,  // And is under way.
    kOn,
    kStopping,
    kStuck,  // The device may still use it.
  };
  struct Queue {
    uint32_t num = 0;
    uint64_t desc = 0;
    uint64_t driver = 0;
    uint64_t device = 0;
    QueueState state = QueueState::kOff;
    bool resetting = false;
  };

  absl::Status load_status(const VirtioMmio::State& state);
  absl::Status load_queue(uint32_t index,
                          const VirtioMmio::State::Queue& state);
  MmioAction refuse();
  uint32_t read_register(uint64_t offset) const;
  uint32_t interrupt_status() const;
  uint64_t shared_memory(uint64_t VirtioMmio::SharedMemory::*field) const;
  MmioAction write_register(uint64_t offset, uint32_t value);
  MmioAction write_driver_features(uint32_t value);
  MmioAction write_queue(uint64_t offset, uint32_t value);
  MmioAction write_ready(Queue& queue, uint32_t value);
  MmioAction write_queue_reset(Queue& queue, uint32_t value);
  MmioAction stop_queue(Queue& queue, bool reset);
  MmioAction write_notify(uint32_t value);
  MmioAction write_status(uint32_t value);
  MmioAction write_config(uint64_t offset, std::span<const std::byte> bytes);
  MmioAction reset();
  void complete_queue(const MmioAction& action, bool ok);
  void clear();

  uint16_t max_num(uint32_t queue) const;
  FeatureSet driver_features() const;
  bool acceptable() const;
  bool ring_is_possible(const Queue& queue) const;
  bool asks_device() const {
    return phase_ == Phase::kStarting || phase_ == Phase::kRunning;
  }

  Setup setup_;
  FeatureSet offered_;
  Phase phase_ = Phase::kSetUp;
  uint8_t status_ = 0;
  // Whether anything was asked of the device since the last reset.
  bool touched_ = false;
  uint32_t device_features_sel_ = 0;
  uint32_t driver_features_sel_ = 0;
  std::array<uint32_t, FeatureSet::kBits / 32> driver_features_{};
  uint32_t queue_sel_ = 0;
  uint32_t shm_sel_ = 0;
  std::vector<Queue> queues_;
  bool config_interrupt_ = false;
  uint32_t generation_ = 0;
  std::vector<std::byte> config_;
  uint64_t refused_ = 0;
  uint64_t resets_ = 0;
};

}  // namespace vhost

#endif  // HW_MMIO_MMIO_REGISTERS_H_
