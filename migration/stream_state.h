// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_STREAM_STATE_H_
#define MIGRATION_STREAM_STATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/byte_queue.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/unique_fd.h"

// The state of a back-end as records of a migration stream.  Those of several
// devices may be mixed.  The payloads of one device, one behind the other, are
// what QemuStateWriter writes, byte for byte.
//
//   backend_state     = length:be32 (1 to kMaxStateChunk) byte*length
//   backend_state_end = 0:be32

namespace vhost {

// Calls a `ready` on the loop, once, unless it was replaced or its owner died.
class ReadyCall {
 public:
  explicit ReadyCall(EventLoop& loop) : loop_(loop) {}

  // As StateSink::when_ready.
  void set(absl::AnyInvocable<void()> ready) {
    ready_ =
        ready ? std::make_shared<absl::AnyInvocable<void()>>(std::move(ready))
              : nullptr;
  }
  bool is_set() const { return ready_ != nullptr; }
  // Has it called, later.
  void post();

 private:
  EventLoop& loop_;
  // What was posted holds it weakly.
  std::shared_ptr<absl::AnyInvocable<void()>> ready_;
};

// Writes the state of one device as records.  Whoever owns the channel says
// when it can take more: see room().
//
// Thread: the loop's.
class StreamStateSink final : public StateSink {
 public:
  // Sends what the writer has pending: whether nothing is any more.
  using Flush = absl::AnyInvocable<absl::StatusOr<bool>()>;

  // Takes nothing while `most_pending` bytes or more are waiting in `writer`:
  // few by default, so that what is sent was in a cache just now.  Both outlive
  // it.
  StreamStateSink(EventLoop& loop, StreamWriter& writer, uint32_t device,
                  size_t most_pending = 256 << 10)
      : writer_(writer),
        device_(device),
        most_pending_(most_pending),
        ready_(loop) {}

  // Called whenever something was appended, or spliced to its end: the channel
  // has to look what there is to send.
  void on_append(absl::AnyInvocable<void()> appended) {
    appended_ = std::move(appended);
  }

  // Where the stream is not hashed: moves bytes from the pipe into `channel`
  // (non-blocking) without looking at them.  Everything before them is sent
  // with `flush` first.  A save that ends early may leave a record unfinished:
  // give_up(), or the channel is to be closed.
  void splice_to(FdRef channel, Flush flush);

  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;
  absl::StatusOr<bool> end() override;

  // The channel took something, or would.  To be called for every sink.
  void room();
  // Somebody waits for room(): the channel is to be watched.
  bool waiting() const { return ready_.is_set(); }
  // The channel is lost: the save ends with `why`.  Neither the writer nor the
  // channel is used any more.
  void fail(const absl::Status& why);

  // The save ended early, and the stream goes on without the state: completes
  // its last record, if that is half out, with zeros.  No end will follow, so
  // nobody takes it for a state.
  void give_up();
  uint64_t taken() const { return taken_; }  // Bytes of state.

 private:
  bool can_append() const;
  void tell_appended() {
    if (appended_) appended_();
  }
  absl::StatusOr<uint64_t> copy_chunk(int pipe, size_t most);
  absl::StatusOr<uint64_t> splice_chunk(int pipe, uint64_t available);

  StreamWriter& writer_;
  const uint32_t device_;
  const size_t most_pending_;
  ReadyCall ready_;
  absl::AnyInvocable<void()> appended_;
  absl::Status status_;
  FdRef channel_;
  Flush flush_;            // Null: copy.
  bool in_chunk_ = false;  // The writer's external payload is ours.
  uint64_t taken_ = 0;
};

// Gives back what StreamStateSink took, from records that are fed to it.
//
// Thread: the loop's.
class StreamStateSource final : public StateSource {
 public:
  // `most_buffered`: see full().  `loop` outlives it.
  explicit StreamStateSource(EventLoop& loop, size_t most_buffered = 4 << 20)
      : most_buffered_(most_buffered), ready_(loop), room_(loop) {}

  // Where the reader lets kBackendState pass (StreamReader::pass_through, with
  // a head of 4 bytes): the rest of a payload is taken from `channel`
  // (non-blocking).  `watch` asks for one call of channel_ready(), as soon as
  // the channel is readable.  All outlive it, or fail().
  void splice_from(FdRef channel, StreamReader& reader,
                   absl::AnyInvocable<void()> watch);

  // A record kBackendState or kBackendStateEnd of this device.
  // Errors: kDataLoss  malformed, or behind the end.
  absl::Status add(const StreamRecord& record);
  // Feed no more records, of any device, before on_room was called.
  bool full() const;
  // Calls `room` on the loop, once, when it is no longer full.
  void on_room(absl::AnyInvocable<void()> room);
  // The rest of its last record is still in the channel.
  bool in_channel() const { return in_channel_; }
  void channel_ready() { ready_.post(); }
  // The stream is lost: the load ends with `why`, behind what is here already.
  // Neither the reader nor the channel is used any more.
  void fail(const absl::Status& why);

  absl::StatusOr<Given> give(int pipe, uint64_t most) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;

  bool ended() const { return ended_; }      // The end was fed.
  uint64_t given() const { return given_; }  // Bytes of state.

 private:
  enum class Step : uint8_t { kMoved, kDry, kFull };

  absl::StatusOr<Step> move(int pipe, uint64_t most, uint64_t& moved);
  absl::StatusOr<Step> write_some(int pipe, uint64_t most, uint64_t& moved);
  absl::StatusOr<Step> splice_some(int pipe, uint64_t most, uint64_t& moved);

  const size_t most_buffered_;
  ReadyCall ready_;
  ReadyCall room_;
  absl::Status status_;
  ByteQueue buffer_;
  FdRef channel_;
  StreamReader* reader_ = nullptr;
  absl::AnyInvocable<void()> watch_;
  bool in_channel_ = false;  // The rest of the last chunk is in the channel.
  bool ended_ = false;
  uint64_t given_ = 0;
};

}  // namespace vhost

#endif  // MIGRATION_STREAM_STATE_H_
