// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_JOURNAL_RUN_H_
#define TOOLS_VHOSTCTL_JOURNAL_RUN_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/journal.h"
#include "tools/vhostctl/latency.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

// Random writes and reads on a disk and a journal of those that were
// acknowledged, over any number of deaths of the back-end; then the check of
// all that was written.  In steps: submit, take, and so on.  Never are two
// requests of one unit in flight: the order of two writes would be the device's
// choice.
//
// Thread: that of the client.
class JournalRun {
 public:
  // A generator whose state is one word, so that it can move.
  // Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
  // Generators", 2014 (SplitMix64).
  struct Random {
    uint64_t state;

    uint64_t operator()() {
      uint64_t z = state += 0x9e3779b97f4a7c15;
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
      z = (z ^ z >> 27) * 0x94d049bb133111eb;
      return z ^ z >> 31;
    }
  };

  struct Options {
    uint64_t size = 0;     // Bytes of the disk, from 0 on.
    uint64_t unit = 0;     // Bytes of a request; a multiple of 512.
    uint32_t window = 32;  // Requests in flight, at most.
    uint64_t seed = 1;
  };

  // Bytes of a request on a disk that takes `limit` in one piece at most; 0:
  // any number.
  static uint64_t unit_for(uint64_t limit);
  // Bytes that it takes of `memory`, at most.
  static uint64_t memory_for(const Options& options);

  // `client` and `memory` outlive the result.
  // Errors: kInvalidArgument  a size that is no multiple of the unit, or of
  //                           more units than a journal has.
  //         as DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<JournalRun>> create(
      BlkClient& client, DmaMemory& memory, const Options& options);
  // Writes what another run needs to go on from here, with the state of
  // the client (BlkClient::save) and the memory of both.  Any thread, while
  // that of the client leaves both alone.  Latencies are not part of it.
  void save(StateWriter& out) const;
  // Goes on where another run stopped.  `client` was restored; `options` are
  // those of that run.
  // Errors: the reader's: a state that makes no sense, or of other options;
  //         kInvalidArgument  of other requests than the client's.
  //         as create() and DmaMemory::allocate_at.
  static absl::StatusOr<std::unique_ptr<JournalRun>> restore(
      BlkClient& client, DmaMemory& memory, const Options& options,
      StateReader& in);

  // With requests in flight their buffers are not used again.
  ~JournalRun();

  // Fills the window with writes and reads; with !fresh only with what was
  // begun and must be repeated, because a back-end died.
  // Errors: as BlkClient::submit.
  absl::Status submit_load(bool fresh);
  // Whether there is nothing to repeat and nothing in flight.
  bool idle() const { return rewrite_.empty() && in_flight() == 0; }

  // Makes what was written durable, where the disk has a cache: to be submitted
  // again until it is flushed().
  absl::Status submit_flush();
  bool flushed() const { return flushed_; }

  // Reads of all that was written, from the beginning.
  void begin_check();
  absl::Status submit_check();
  bool checked() const;

  // Takes what completed, all of it; waits for something, if it is not there,
  // `timeout` at most.
  // Errors: the first of BlkCompletion's, but for outcome_unknown().
  absl::Status take(Duration timeout);

  uint32_t in_flight() const { return client_.in_flight(); }
  const Journal& journal() const { return journal_; }
  const LatencyHistogram& latency() const { return latency_; }
  uint64_t writes() const { return writes_; }  // Submitted.
  uint64_t reads() const { return reads_; }    // Compared.
  uint64_t failed() const { return failed_; }  // Requests, with an error.
  // Bytes read since begin_check().
  uint64_t checked_bytes() const;

 private:
  struct Slot {
    DmaSpan buffer;
    uint64_t unit = 0;
    bool write = false;
    MonotonicTime submitted;
  };

  // The cookie of a flush, which has no slot.
  static constexpr uint64_t kFlushCookie = ~uint64_t{0};

  JournalRun(BlkClient& client, const Options& options);

  absl::Status take_memory(absl::StatusOr<DmaBuffer> buffers);
  absl::Status load(StateReader& in);
  void load_slots(StateReader& in);
  // Whether what is in flight here is what the client has in flight.
  absl::Status check_in_flight() const;

  uint64_t pick();
  absl::Status submit(uint64_t unit, bool write);
  absl::Status submit_next();
  absl::Status finish(const BlkCompletion& completion);
  absl::Status finish(Slot& slot, const absl::Status& status);

  BlkClient& client_;
  Journal journal_;
  DmaBuffer memory_;
  std::vector<Slot> slots_;
  std::vector<BlkCompletion> completions_;  // Room for all.
  std::deque<size_t> free_;                 // Longest unused first.
  std::vector<bool> busy_;                  // Units with a request in flight.
  const uint64_t window_;
  std::deque<uint64_t> rewrite_;  // Units with a write in doubt.
  std::deque<uint64_t> reread_;   // Units whose read came to nothing.
  Random random_;
  LatencyHistogram latency_;
  uint64_t writes_ = 0;
  uint64_t reads_ = 0;
  uint64_t failed_ = 0;
  bool flushing_ = false;
  bool flushed_ = false;
  uint64_t next_check_ = 0;  // The unit that is read next.
  uint64_t reads_before_check_ = 0;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_JOURNAL_RUN_H_
