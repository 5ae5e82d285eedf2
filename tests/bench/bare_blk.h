// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_BARE_BLK_H_
#define TESTS_BENCH_BARE_BLK_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/bench/replay.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/unique_fd.h"

namespace vhost::bench {

// The least that a virtio-blk driver can do: one ring, a plain loop, nothing
// checked but the status byte.  The ring has the layout of a SplitVirtqueue,
// and requests are chains of header, data, status, written anew each time.
class BareBlk {
 public:
  static constexpr uint32_t kDataSize = 4096;

  // When the device sees a request: as soon as it is written, or together with
  // all others that are written before the device is notified.
  enum class Publish : uint8_t { kEach, kBatch };

  // Starts a ring of `num` descriptors on the back-end at `path`; aborts the
  // program if that does not work.
  BareBlk(const std::string& path, uint32_t num, Publish publish);
  ~BareBlk();
  BareBlk(const BareBlk&) = delete;
  BareBlk& operator=(const BareBlk&) = delete;

  // Reads `count` times 4 KiB with `depth` requests in flight.
  void read(uint64_t count, uint32_t depth);

 private:
  void put(uint32_t slot, uint64_t sector);
  void show();
  void kick();
  UniqueFd make_memory(size_t size);

  const uint32_t num_;
  const Publish publish_;
  const SplitRingLayout layout_;
  size_t size_;
  std::byte* map_ = nullptr;
  UniqueFd kick_;
  Replay connection_;
  uint16_t avail_ = 0;
  uint16_t used_ = 0;
  uint64_t sector_ = 0;
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_BARE_BLK_H_
