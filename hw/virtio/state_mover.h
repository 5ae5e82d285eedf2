// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_STATE_MOVER_H_
#define HW_VIRTIO_STATE_MOVER_H_

#include <coroutine>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "hw/virtio/sequence_runner.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/state_channel.h"

namespace vhost {

// Moves the bytes of one state between a StateChannel and a sink or source:
// the part of save_state and load_state that sends no message.  Works in turns
// from the loop, each a few chunks long, and gives up when nothing moved for
// too long.
class StateMover {
 public:
  using Over = absl::AnyInvocable<void(absl::Status)>;

  // `loop` outlives the mover.
  StateMover(EventLoop& loop, const StateLimits& limits, StateChannel channel)
      : loop_(loop), limits_(limits), channel_(std::move(channel)) {}
  virtual ~StateMover() = default;
  StateMover(const StateMover&) = delete;
  StateMover& operator=(const StateMover&) = delete;

  // Goes on until all is done or something failed, and calls `over` then:
  // inside begin() or a turn; it may destroy the mover.  Not while one is under
  // way.
  void begin(Over over);
  bool under_way() const { return over_ != nullptr; }
  // Does what can be done now; whether anything was.  For a loop that does not
  // turn.
  bool turn();
  // Ends it with `why`, if it is under way.
  void fail(const absl::Status& why);
  // Drops it: `over` is not called, and sink or source are not called again.
  void drop();

  // Whether the sink or the source is on the stack.
  bool calling_out() const { return calling_out_; }

  // Closes our end of the channel.  Between begin()s.
  void close_channel() { channel_ = StateChannel(); }

  // Bytes that moved so far.
  uint64_t moved() const { return moved_; }

 protected:
  // What one step came to.
  enum class Step : uint8_t {
    kMoved,
    kWaitsForPipe,   // For wanted(), or for it to be hung up.
    kWaitsForOther,  // For the sink or the source.
    kDone,
  };
  virtual absl::StatusOr<Step> step() = 0;
  virtual IoEvents wanted() const = 0;
  virtual void call_when_ready(absl::AnyInvocable<void()> ready) = 0;
  // Whether a channel that is hung up is news while the other is waited for.
  virtual bool watches_hang_up() const = 0;

  // Counts `bytes`; whether they are too many.
  absl::Status count(uint64_t bytes);

  EventLoop& loop_;
  const StateLimits limits_;
  StateChannel channel_;
  uint64_t moved_ = 0;

 private:
  absl::StatusOr<Step> run_steps();
  void watch_pipe(IoEvents events);
  void wait_for_other();
  void finish(const absl::Status& status);
  void arm();
  bool late() const;
  absl::Status too_late() const;

  Over over_;  // Null: not under way.
  std::unique_ptr<EventLoop::Watch> watch_;
  std::optional<IoEvents> watched_;
  std::unique_ptr<EventLoop::Timer> timer_;
  MonotonicTime last_moved_;
  bool calling_out_ = false;
  bool waits_for_other_ = false;
  // What the sink or source may call late does nothing once this is gone.
  std::shared_ptr<StateMover*> self_ = std::make_shared<StateMover*>(this);
};

// Out of a back-end: first its bytes; the end only when told to.
class StateSaver final : public StateMover {
 public:
  StateSaver(EventLoop& loop, const StateLimits& limits, StateChannel channel,
             StateSink& sink)
      : StateMover(loop, limits, std::move(channel)), sink_(sink) {}

  // The next begin() tells the sink that the state is complete.
  void all_is_well() { ending_ = true; }

 private:
  absl::StatusOr<Step> step() override;
  IoEvents wanted() const override { return {.readable = true}; }
  void call_when_ready(absl::AnyInvocable<void()> ready) override {
    sink_.when_ready(std::move(ready));
  }
  bool watches_hang_up() const override { return false; }

  StateSink& sink_;
  bool ending_ = false;
};

// Into a back-end.
class StateLoader final : public StateMover {
 public:
  StateLoader(EventLoop& loop, const StateLimits& limits, StateChannel channel,
              StateSource& source)
      : StateMover(loop, limits, std::move(channel)), source_(source) {}

  // Whether it ended because the back-end closed its end: it has an opinion
  // about the state.
  bool reader_gone() const { return reader_gone_; }

 private:
  absl::StatusOr<Step> step() override;
  IoEvents wanted() const override { return {.writable = true}; }
  void call_when_ready(absl::AnyInvocable<void()> ready) override {
    source_.when_ready(std::move(ready));
  }
  bool watches_hang_up() const override { return true; }
  absl::Status look_for_reader(const absl::Status& otherwise);

  StateSource& source_;
  bool ended_ = false;
  bool reader_gone_ = false;
};

// `absl::Status moved = co_await Moved(runner, mover);`
class Moved {
 public:
  explicit Moved(SequenceRunner& runner, StateMover& mover)
      : runner_(runner), mover_(mover) {}
  Moved(Moved&&) = delete;
  ~Moved() {
    if (waiting_) mover_.drop();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> handle);
  absl::Status await_resume() { return *std::move(result_); }

 private:
  void finish(absl::Status status);

  SequenceRunner& runner_;
  StateMover& mover_;
  std::coroutine_handle<> handle_;
  std::optional<absl::Status> result_;
  bool waiting_ = false;
  bool beginning_ = false;
};

}  // namespace vhost

#endif  // HW_VIRTIO_STATE_MOVER_H_
