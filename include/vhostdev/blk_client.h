// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_BLK_CLIENT_H_
#define VHOSTDEV_BLK_CLIENT_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

struct BlkClientState;

// Feature bits of block devices.  Source: VIRTIO 1.3, "Block Device".
inline constexpr unsigned kBlkFeatureSizeMax = 1;
inline constexpr unsigned kBlkFeatureSegMax = 2;
inline constexpr unsigned kBlkFeatureGeometry = 4;
inline constexpr unsigned kBlkFeatureReadOnly = 5;
inline constexpr unsigned kBlkFeatureBlkSize = 6;
inline constexpr unsigned kBlkFeatureFlush = 9;
inline constexpr unsigned kBlkFeatureTopology = 10;
inline constexpr unsigned kBlkFeatureConfigWce = 11;
inline constexpr unsigned kBlkFeatureMq = 12;
inline constexpr unsigned kBlkFeatureDiscard = 13;
inline constexpr unsigned kBlkFeatureWriteZeroes = 14;

// What BlkClient can make use of.
inline constexpr FeatureSet kBlkWantedFeatures{
    kBlkFeatureSizeMax,   kBlkFeatureSegMax,      kBlkFeatureGeometry,
    kBlkFeatureReadOnly,  kBlkFeatureBlkSize,     kBlkFeatureFlush,
    kBlkFeatureTopology,  kBlkFeatureConfigWce,   kBlkFeatureMq,
    kBlkFeatureDiscard,   kBlkFeatureWriteZeroes, kFeatureEventIdx,
    kFeatureIndirectDesc, kFeatureVersion1};

// Bytes of a block device's configuration space that are known here.
inline constexpr uint32_t kBlkConfigSize = 60;

// Addresses and lengths in the configuration space and in requests count
// sectors of this size, whatever the block size.
inline constexpr uint32_t kBlkSectorSize = 512;

// Bytes of a device id, padded with zeros.
inline constexpr uint32_t kBlkIdSize = 20;

// The configuration space, decoded.  Fields of features that were not accepted
// have the value that means "no limit known" or "none".
struct BlkConfig {
  uint64_t capacity = 0;  // Sectors.
  uint32_t size_max = 0;  // Bytes in one buffer; 0: no limit.
  uint32_t seg_max = 0;   // Buffers in one request; 0: no limit.
  uint32_t blk_size = kBlkSectorSize;
  uint16_t num_queues = 1;
  bool read_only = false;
  bool flush = false;
  bool writeback = true;
  bool discard = false;
  bool write_zeroes = false;
  bool write_zeroes_may_unmap = false;
  uint32_t max_discard_sectors = 0;
  uint32_t discard_alignment = 0;  // Sectors.
  uint32_t max_write_zeroes_sectors = 0;

  uint64_t capacity_bytes() const { return capacity * kBlkSectorSize; }
  friend bool operator==(const BlkConfig&, const BlkConfig&) = default;
};

// Decodes the first bytes of a configuration space.
// Errors: kDataLoss  too short for the features, a block size that is not a
//                    power of 2 from 512 on, a capacity past 2^64 bytes.
absl::StatusOr<BlkConfig> decode_blk_config(FeatureSet features,
                                            std::span<const std::byte> bytes);

enum class BlkOp : uint8_t {
  kRead,
  kWrite,
  kFlush,
  kGetId,  // 20 bytes into the buffer.
  kDiscard,
  kWriteZeroes,
};
// "read", "write", ...
absl::string_view to_string(BlkOp op);

struct BlkRequest {
  BlkOp op = BlkOp::kRead;
  uint64_t offset = 0;     // Bytes; a multiple of 512.
  uint64_t length = 0;     // Bytes, for discard and write-zeroes.
  bool may_unmap = false;  // Write-zeroes.
  // Read, write, get-id.  The data stays the device's until the completion; the
  // span itself may go when submit() returns.
  std::span<const DmaSpan> buffers;
  uint64_t cookie = 0;
};

struct BlkCompletion {
  uint64_t cookie = 0;
  // OK; kAborted: the device reported an I/O error; kUnimplemented: it does not
  // support the operation; kDataLoss: no sense in its answer; kUnavailable: the
  // back-end died; kDeadlineExceeded: nothing completed for stall_timeout.
  // After the last three the device may not have done it, or may do it yet.
  // kAborted and outcome_unknown(): the device was reset meanwhile; the client
  // goes on.
  absl::Status status;
};

// A block device's client: requests over one or more queues of a driver.
// Every request that submit() took completes exactly once, whatever becomes of
// the back-end.
//
// Thread: one thread owns the client and its queues.
//
// Source: VIRTIO 1.3, "Block Device", "Device Operation".
class BlkClient {
 public:
  enum class WaitMode : uint8_t {
    kPoll,   // wait() polls the rings: fastest, a whole processor.
    kSleep,  // wait() sleeps until the device signals.
  };
  struct Options {
    WaitMode wait_mode = WaitMode::kPoll;
    uint32_t depth = 32;  // Requests in flight per queue, at most.
    // Requests in flight and none completed for this long: wait() gives the
    // back-end up.  Time without back-end (VirtioDriver::Options::reconnect)
    // does not count.
    Duration stall_timeout = std::chrono::seconds(5);
  };

  // Takes every queue of `driver`, which is running and outlives the client,
  // and reads the configuration.
  // Errors: kInvalidArgument    depth 0, or rings too small for one request.
  //         kDataLoss           the configuration makes no sense.
  //         as VirtioDriver::acquire, read_config and DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<BlkClient>> create(
      VirtioDriver& driver, const Options& options);

  // The same with queues that the caller acquired, on the calling thread,
  // and the configuration as read earlier.  Any thread, where memory is
  // reserved for it (DmaMemory::reserve): memory_for().
  static absl::StatusOr<std::unique_ptr<BlkClient>> create(
      VirtioDriver& driver, std::vector<QueueHandle> queues,
      const BlkConfig& config, const Options& options);

  // What another client needs to go on from here, over a driver with the same
  // rings (VirtioDriver::save).  Any thread, while the owner leaves the client
  // alone.
  // Errors: kFailedPrecondition  the device was reset, and not all that was in
  //                              flight has come out of poll().
  //         status()             the device is given up.
  absl::StatusOr<BlkClientState> save() const;

  // Goes on where another client stopped, with all queues of a driver that
  // was restored; `options` has that client's depth.  The calling thread owns
  // the client, until another one calls take_over().
  // Errors: kInvalidArgument  as create(); a state that makes no sense, or that
  //                           is not of these rings.
  //         as VirtioDriver::acquire and DmaMemory::allocate_at.
  static absl::StatusOr<std::unique_ptr<BlkClient>> restore(
      VirtioDriver& driver, const Options& options,
      const BlkClientState& state);

  // Makes the calling thread the owner, as QueueHandle::take_over.
  absl::Status take_over();

  // Bytes that it takes of the driver's memory, at most.
  static uint64_t memory_for(uint32_t queues, const Options& options);

  // Requests in flight are forgotten: stop the driver first or wait for them.
  ~BlkClient();
  BlkClient(const BlkClient&) = delete;
  BlkClient& operator=(const BlkClient&) = delete;

  const BlkConfig& config() const;
  uint32_t queue_count() const;
  // Requests in flight, on all queues or on one.
  uint32_t in_flight() const;
  uint32_t in_flight(uint32_t queue) const;

  // Puts `request` on the next queue that has room, or on `queue`.  The device
  // does not see it before kick(): requests travel in batches.
  // Errors: kInvalidArgument     misaligned, past the end, too many or too
  //                              large buffers for the device, no data.
  //         kUnimplemented       the feature was not accepted.
  //         kPermissionDenied    a write on a read-only device.
  //         kResourceExhausted   full: poll() or wait(), then again.
  //         kUnavailable, kDataLoss, kDeadlineExceeded  the device is given up.
  absl::Status submit(const BlkRequest& request);
  absl::Status submit(const BlkRequest& request, uint32_t queue);

  // Shows the device what was submitted and notifies it, where it wants to
  // know.
  absl::Status kick();

  // Takes completions, at most out.size(); the number.  Never waits.
  size_t poll(std::span<BlkCompletion> out);

  // As poll(), but kicks and then waits for one at least.  0 only if nothing is
  // in flight.  Turns the driver's loop meanwhile (VirtioDriver::turn_loop).
  size_t wait(std::span<BlkCompletion> out);
  // The same, but 0 after `timeout`, too.
  size_t wait_for(std::span<BlkCompletion> out, Duration timeout);

  // One request, from submit() to its end; nothing else may be in flight
  // (kFailedPrecondition).
  absl::Status run(const BlkRequest& request);

  // The device's id, by run().
  absl::StatusOr<std::string> get_id();

  // OK, or why nothing can be submitted any more.
  const absl::Status& status() const;

 private:
  struct Impl;
  explicit BlkClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_BLK_CLIENT_H_
