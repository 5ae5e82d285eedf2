// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_FAKE_BACKEND_RUN_H_
#define TESTS_FAKES_FAKE_BACKEND_RUN_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/fake_backend.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// The back-end says no.
inline absl::Status fake_refusal(absl::string_view why) {
  return absl::AbortedError(why);
}

// One verb being done.
class FakeBackend::Run {
 public:
  Run(FakeBackend& backend, const BackendTraits& traits, Plan plan)
      : backend_(backend), traits_(traits), plan_(plan) {}

  BatchResult finish() {
    if (result_.status.ok()) {
      result_.applied.clear();
      return std::move(result_);
    }
    // Replies come only with success.
    result_.bases.clear();
    result_.bytes.clear();
    result_.inflight = {};
    result_.fd.reset();
    result_.host_notifiers.clear();
    return std::move(result_);
  }

  void operator()(const Open& verb);
  void operator()(const SetFeatures& verb);
  void operator()(const GetInflight& verb);
  void operator()(const Configure& verb);
  void operator()(const Go& verb);
  void operator()(const DriverOk&);
  void operator()(const Quiesce& verb);
  void operator()(const Harvest& verb);
  void operator()(const Resume&);
  void operator()(const ResetStatus&);
  void operator()(const ResetDevice&);
  void operator()(const SetQueuesEnabled& verb);
  void operator()(const UpdateMemory& verb) { change_memory(verb.diff); }
  void operator()(const SetCalls& verb);
  void operator()(const SetLog& verb);
  void operator()(const SetRingLogging& verb);
  void operator()(const GetConfig& verb);
  void operator()(const SetConfig& verb);
  void operator()(const SetConfigCall& verb);
  void operator()(const UpdateIotlb& verb);
  void operator()(const SetDeviceStateFd& verb);
  void operator()(const CheckDeviceState&);
  void operator()(const SetMtu& verb);
  void operator()(const SendRarp&);
  void operator()(const KickQueues& verb);
  void operator()(const GetHostNotifiers& verb);
  void operator()(const ResetOwner&);
  void operator()(const SetGuestCid& verb);

 private:
  // Does `body` as `step` unless the test planned something else for it.
  void step(Step which, absl::string_view what,
            absl::FunctionRef<absl::Status()> body) {
    if (const std::optional<Planned> planned = plan_(which)) {
      const bool refused = planned->fate == Fate::kRefused;
      (refused ? result_.refused : result_.unknown).push_back(which);
      note(planned->status, what);
      return;
    }
    const absl::Status status = body();
    (status.ok() ? result_.applied : result_.refused).push_back(which);
    note(status, what);
  }
  void queue_step(StepKind kind, uint32_t queue, absl::string_view what,
                  absl::FunctionRef<absl::Status()> body) {
    step({.kind = kind, .index = queue}, absl::StrCat("vq ", queue, ": ", what),
         body);
  }
  void whole(absl::FunctionRef<absl::Status()> body) { step({}, "", body); }

  void note(const absl::Status& status, absl::string_view what) {
    if (status.ok() || !result_.status.ok()) return;
    result_.status = what.empty() ? status : annotate(status, what);
  }

  void no_such_verb(absl::string_view what);

  void change_memory(const MemoryDiff& diff);
  void set_table(const MemoryDiff& diff);
  absl::Status remove(const MemoryTableEntry& entry);
  absl::Status add(const MemoryTableEntry& entry);
  absl::Status acceptable(const FakeMemory& piece, FdRef fd) const;
  absl::Status set_log(const LogArea& area);
  bool logs() const;
  absl::Status log_reaches(const FakeMemory& piece) const;
  absl::Status log_reaches_all() const;

  void configure_queue(const VringSetup& setup);
  absl::Status idle_queue(uint32_t index);
  absl::Status set_num(const VringSetup& setup);
  absl::Status set_addr(const VringSetup& setup);
  absl::Status reachable(const RingPart& part) const;
  absl::Status update_iotlb(const UpdateIotlb& update);
  absl::Status translated(const RingPart& part, IotlbAccess needed) const;
  absl::Status set_notifier(NotifyRef ref, UniqueFd& fd, NotifyMode& mode);
  absl::Status start(const Go::Queue& queue);
  absl::Status enable(uint32_t index, bool on);
  absl::Status started(uint32_t index) const;

  FakeBackend& backend_;
  const BackendTraits& traits_;
  Plan plan_;
  BatchResult result_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_FAKE_BACKEND_RUN_H_
