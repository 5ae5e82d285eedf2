// SPDX-License-Identifier: Apache-2.0
#ifndef HW_VIRTIO_EXECUTOR_OPS_H_
#define HW_VIRTIO_EXECUTOR_OPS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/executor.h"
#include "vhostdev/vhost_ops.h"

namespace vhost {

// A back-end whose verbs may block, on a worker: they run there in the order
// submitted, and their results come back to the loop.  All of this class is
// called on the loop's thread, and only pump() waits.
//
// The back-end itself is shared with the work under way.  Who gives this up
// does not wait for the worker: the last work closes the back-end and destroys
// it there, and what its verbs borrowed is kept until then (set_lender).
class ExecutorOps final : public VhostOps {
 public:
  // `executor` is not used any more after retire(); `loop` outlives all work.
  ExecutorOps(std::unique_ptr<VhostOps> inner, Executor& executor,
              EventLoop& loop);
  ~ExecutorOps() override;
  ExecutorOps(const ExecutorOps&) = delete;
  ExecutorOps& operator=(const ExecutorOps&) = delete;

  // Whatever verbs borrow belongs to `lender`: referenced while one of them is
  // on the worker and given back on the loop's thread.
  void set_lender(std::weak_ptr<void> lender);

  // `kept` is let go of, on the loop's thread, once the next close() is done or
  // the back-end, which reported its own loss, is not at work any more: what a
  // verb that nobody waits for may still use.
  void keep_until_closed(std::shared_ptr<const void> kept);

  // The end: as close(), and the back-end is destroyed behind it.  Every verb
  // from now on is refused.
  void retire(const absl::Status& why);

  // Before and between verbs the back-end's own; as of the last verb that
  // completed while one runs.
  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override;
  void pump(MonotonicTime deadline) override;
  void close(const absl::Status& why) override;
  // Null while the worker has the back-end.
  std::unique_ptr<PeerWatch> watch_for_peer(
      EventLoop& loop, EventLoop::Callback appeared) override;
  std::vector<std::string> recent() const override { return recent_; }
  BackendCounters counters() const override { return counters_; }

 private:
  class Core;
  class Work;
  class Reports;
  struct Outcome;
  struct UnderWay {
    std::shared_ptr<Pending::Slot> slot;
    MonotonicTime deadline;
    std::unique_ptr<EventLoop::Timer> timer;
  };

  void returned(uint64_t id, Outcome outcome);
  void give_up(const absl::Status& why);
  void expire();

  const std::shared_ptr<Core> core_;
  BackendTraits traits_;
  BackendCounters counters_;
  std::vector<std::string> recent_;
  std::map<uint64_t, UnderWay> under_way_;
  uint64_t ids_ = 0;
  bool retired_ = false;
};

}  // namespace vhost

#endif  // HW_VIRTIO_EXECUTOR_OPS_H_
