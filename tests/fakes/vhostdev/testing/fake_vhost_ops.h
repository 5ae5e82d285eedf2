// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_FAKE_VHOST_OPS_H_
#define VHOSTDEV_TESTING_FAKE_VHOST_OPS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_backend.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// Traits as the three kinds of back-end have them: 8 queues, features
// VERSION_1, EVENT_IDX, INDIRECT_DESC and LOG_ALL (without LOG_ALL for vDPA).
//   vhost-user  8 slots one by one, shared log, config, enable, reset
//   kernel      64 slots as a whole table, no config
//   vDPA        config with interrupt, status, no single-queue stop; pins
//               memory
BackendTraits like_vhost_user();
BackendTraits like_kernel();
BackendTraits like_vdpa();

// When a FakeVhostOps completes a verb.
enum class Completes : uint8_t {
  kInline,     // Inside submit().
  kOnPump,     // In pump(), one verb each.
  kPosted,     // By posting to the attached loop; in pump() if that is first.
  kOnRequest,  // In complete_next().
  kNever,      // Not before the verb's deadline.
};

// A back-end in this process that keeps what it is told and can be told to
// fail.  It behaves: it refuses what a real back-end would refuse (`backend`
// says what is set up).  Fields may be changed at any time.
//
// The journal has what was asked, in order, a line for each verb, queue and
// memory change:
//   Open                        Open config=60
//   SetFeatures 0x120000000     GetInflight queues=2 size=128
//   Configure memory -1 +2      removals and additions
//   Configure inflight          Configure log=4096
//   Configure q0 num=256 base=0 addr call err      (addr+log when logging;
//                               call:polling, call:in-band when not an fd)
//   Configure                   nothing to configure
//   Go q0 kick enabled          Go q1 kick        Go q2 kick:polling enabled
//   DriverOk  ResetStatus       both do nothing where there is no status
//   Resume    ResetDevice       CheckDeviceState
//   Quiesce q0                  Harvest q0
//   SetQueuesEnabled q0 on      UpdateMemory -1 +0
//   SetCalls q0 call            SetLog 4096       SetRingLogging q0 on
//   GetConfig 0+8               SetConfig 4+2 driver
//   SetConfigCall call          UpdateIotlb 0x1000+4096
//   SetDeviceStateFd save       SetMtu 1500       SendRarp
//   Configure iotlb 0x1000+4096 KickQueues q0     GetHostNotifiers q0
//   SetGuestCid 3               ResetOwner
// and what happened besides:
//   close <code>     abandon <verb>   lost <code>     destroyed
//   watch for peer
class FakeVhostOps final : public VhostOps {
 public:
  explicit FakeVhostOps(BackendTraits traits = like_vhost_user());
  ~FakeVhostOps() override;

  // -- What a test sets and sees. ------------------------------------------

  FakeBackend backend;

  // What the next Open finds; before Open, traits() has only what is not
  // marked (open) there.
  BackendTraits offered;

  Completes completes = Completes::kInline;

  // Outlives the ops, for tests that destroy a VhostDev.
  const std::shared_ptr<std::vector<std::string>> shared_journal;
  std::vector<std::string>& journal;

  // The next verb of this name is refused: all of it, or just `steps`; the
  // rest is done.  Plans for one name queue up.
  void refuse_next(const std::string& verb, absl::Status status,
                   std::vector<Step> steps = {});
  // The connection ends in the next verb of this name before the fate of
  // `steps` (empty: of any step) is known.
  void lose_next(const std::string& verb, absl::Status status,
                 std::vector<Step> steps = {});

  // Nobody is there: each Open fails with this.  OK: somebody is.
  absl::Status away;

  // What watch_for_peer() can do; empty: nothing.  `announces_all` is as
  // PeerWatch says it.
  struct Watching {
    bool announces_all = false;
  };
  std::optional<Watching> watching;
  // Announces a peer to whoever watches; false: nobody does.
  bool appear();

  // Takes back what refuse_next() and lose_next() planned and nothing met.
  void forget_plans() { planned_.clear(); }

  // Completes the oldest verb under way; false if there is none.
  bool complete_next();
  size_t under_way() const { return queue_.size(); }
  bool open() const { return open_; }

  // The back-end speaks by itself.
  void change_config(uint32_t offset, std::vector<std::byte> bytes);
  absl::Status report_vring_call(BackendQueue vq);
  void report_vring_error(BackendQueue vq);
  // Ends the connection: what is under way completes, all of it unknown.
  void lose(const absl::Status& why);

  // Signals the call or error notifier of `vq`; false if it has none.
  bool signal_call(BackendQueue vq);
  bool signal_err(BackendQueue vq);
  // Whether `vq` was kicked since the last look.
  bool take_kick(BackendQueue vq);

  // Runs instead of a real wait when pump() has nothing to do before the given
  // time: a test with a clock of its own moves it there.
  absl::AnyInvocable<void(MonotonicTime)> on_wait;

  // What the ops' user did that it may not, such as a verb while another runs.
  std::vector<std::string> misuse;

  // Whom it reports to: what a back-end asks for in the middle of something.
  BackendSink& sink() { return *sink_; }

  // -- VhostOps ------------------------------------------------------------

  const BackendTraits& traits() const override { return visible_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override;
  void pump(MonotonicTime deadline) override;
  void close(const absl::Status& why) override;
  std::unique_ptr<PeerWatch> watch_for_peer(
      EventLoop& loop, EventLoop::Callback appeared) override;
  std::vector<std::string> recent() const override;
  BackendCounters counters() const override { return counters_; }

 private:
  class Watch;
  struct Failure {
    FakeBackend::Planned planned;
    std::vector<Step> steps;
  };
  struct UnderWay {
    Verb verb;
    MonotonicTime deadline;
    std::shared_ptr<Pending::Slot> slot;
    std::unique_ptr<EventLoop::Timer> timer;
  };

  absl::Status admit(const Verb& verb);
  BatchResult execute(const Verb& verb);
  BatchResult all_steps(const Verb& verb, FakeBackend::Fate fate,
                        const absl::Status& why);
  void answer(const std::shared_ptr<Pending::Slot>& slot, BatchResult result);
  void arm_deadline(UnderWay& entry);
  void hang_up();
  void end_connection(const absl::Status& why, bool tell);
  void expire();
  void abandoned(const Pending::Slot* slot);
  MonotonicTime now() const;

  EventLoop* loop_ = nullptr;
  BackendSink* sink_ = nullptr;
  bool open_ = false;
  BackendTraits visible_;
  BackendCounters counters_;
  std::map<std::string, std::deque<Failure>> planned_;
  std::deque<UnderWay> queue_;
  Watch* watch_ = nullptr;  // That somebody has.
  // Posted closures hold a weak reference: they do nothing once this is gone.
  std::shared_ptr<FakeVhostOps*> self_;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_FAKE_VHOST_OPS_H_
