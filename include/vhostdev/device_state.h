// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_DEVICE_STATE_H_
#define VHOSTDEV_DEVICE_STATE_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// The state that a back-end has of its own: of a file system, which files are
// open.  VhostDev::save_state moves it out of the back-end of a stopped device
// and VhostDev::load_state into another one, through a pipe and a chunk at a
// time: it is never whole in memory.  What it means only back-ends know.
//
// Source: vhost-user.rst, "Migrating back-end state".

// Bytes of a chunk, at most: what QEMU's reader is sure to take.
inline constexpr uint64_t kMaxStateChunk = uint64_t{1} << 20;

// What a move of state may cost.
struct StateLimits {
  // Bytes of state, at most.  It is not kept, only passed on: the cap ends a
  // back-end, or a stream, that never ends.
  uint64_t most_bytes = uint64_t{16} << 30;
  // How long nothing may move, for whichever reason: a back-end that does not
  // write or read, a sink without room, a source with nothing to give.
  Duration idle_timeout = std::chrono::seconds(10);
  // How long the back-end may think about CHECK_DEVICE_STATE.
  Duration check_timeout = std::chrono::seconds(30);
};

// Where the state of one device goes.
//
// Called by one save_state at a time, on the loop's thread, from when it was
// asked until its completion ran or the device was destroyed; so long it lives.
// No call waits, and none calls the device.  SIGPIPE is held back inside take()
// and end().
class StateSink {
 public:
  virtual ~StateSink() = default;

  // Moves bytes out of `pipe`, by read or splice: at most `available`, which is
  // not 0; so many are there.  Usually one chunk of min(`available`,
  // kMaxStateChunk) bytes; a part of a chunk is allowed, and the next take()
  // then goes on with it.  `pipe` is non-blocking, and a pipe always.  The
  // number of bytes that left the pipe; 0: there is no room now, and
  // when_ready() tells when.  May be called again before that.
  //
  // An error ends the save with that error.
  virtual absl::StatusOr<uint64_t> take(int pipe, uint64_t available) = 0;

  // Asks for one call of `ready`, on the loop and never inside when_ready(), as
  // soon as take() or end() can go on or has an error to tell.  Replaces a
  // `ready` that was not called yet; null: nobody waits any more.
  virtual void when_ready(absl::AnyInvocable<void()> ready) = 0;

  // The state is complete: the back-end has vouched for it.  Writes whatever
  // says so to the other end.  Never called after an error, or for a state
  // that is not whole.  False: not everything is on its way yet, and
  // when_ready() tells when to call again.
  virtual absl::StatusOr<bool> end() = 0;
};

// Where the state of one device comes from.  Rules as for StateSink.
class StateSource {
 public:
  struct Given {
    uint64_t bytes = 0;  // Now in the pipe.
    // No byte follows, and the source has seen whatever says so.
    bool ended = false;
    // There is nothing to give now, and when_ready() tells when.  Neither
    // `ended` nor `dry`: the pipe is full, or this was enough for one turn.
    bool dry = false;
  };

  virtual ~StateSource() = default;

  // Moves bytes into `pipe`, by write or splice, `most` at most: as many as
  // there are and fit.  `pipe` is non-blocking, and a pipe always.
  //
  // An error ends the load with that error; the back-end never sees the end of
  // such a state.
  virtual absl::StatusOr<Given> give(int pipe, uint64_t most) = 0;

  // As StateSink::when_ready, for give().
  virtual void when_ready(absl::AnyInvocable<void()> ready) = 0;
};

// How bytes get from one descriptor to the other.
enum class StateTransport : uint8_t {
  kAuto,    // kSplice from and to sockets, otherwise kCopy: what is faster.
  kSplice,  // Through the kernel only.
  kCopy,    // read, then write, through a buffer of a chunk.
};

// Writes state as QEMU's stream has it: chunks of a length, 4 bytes big-endian
// and never 0, and so many bytes; then a length of 0.
//
// Thread: the loop's.
// QEMU: vhost_save_backend_state.
class QemuStateWriter final : public StateSink {
 public:
  // `fd` (socket, pipe or file) is non-blocking; writing to a file waits for
  // the file.  `loop` and `fd` outlive the writer.
  QemuStateWriter(EventLoop& loop, FdRef fd,
                  StateTransport transport = StateTransport::kAuto);
  ~QemuStateWriter() override;
  QemuStateWriter(const QemuStateWriter&) = delete;
  QemuStateWriter& operator=(const QemuStateWriter&) = delete;

  // Errors: kUnavailable  who reads `fd` is gone.
  //         kDataLoss     the pipe has less than was said.
  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;
  absl::StatusOr<bool> end() override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Reads what QemuStateWriter, or QEMU, wrote.  Strict: what a stream says is
// believed only as far as it goes.  Bytes behind the end stay unread.
//
// Thread: the loop's.
// QEMU: vhost_load_backend_state.
class QemuStateReader final : public StateSource {
 public:
  // As QemuStateWriter.  `most_chunk`: bytes of a chunk, at most.
  QemuStateReader(EventLoop& loop, FdRef fd,
                  StateTransport transport = StateTransport::kAuto,
                  uint64_t most_chunk = kMaxStateChunk);
  ~QemuStateReader() override;
  QemuStateReader(const QemuStateReader&) = delete;
  QemuStateReader& operator=(const QemuStateReader&) = delete;

  // Errors: kDataLoss     the stream ends before its end is said, or a chunk is
  //                       larger than `most_chunk`.
  //         kUnavailable  who writes `fd` is gone, or who reads `pipe` is.
  absl::StatusOr<Given> give(int pipe, uint64_t most) override;
  void when_ready(absl::AnyInvocable<void()> ready) override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_DEVICE_STATE_H_
