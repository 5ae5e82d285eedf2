// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_FAULTY_OPS_H_
#define VHOSTDEV_TESTING_FAULTY_OPS_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::testing {

// What to do to a verb.
enum class Fault : uint8_t {
  kRefused,  // It is not passed on: every step refused, kAborted.
  kUnknown,  // It is passed on, but its outcome is lost: every step unknown,
             // kDeadlineExceeded, and the back-end is closed.
  kLost,     // It is not passed on: every step unknown, kUnavailable; the
             // back-end is closed and on_lost told.
};

// Another VhostOps in which the n-th verb fails, for tests of the form "fail
// at every step and look what is left":
//
//   for (size_t n = 0;; ++n) {
//     auto ops = std::make_unique<FaultyOps>(make_ops(), Fault::kRefused, n);
//     const auto record = ops->record();
//     ... everything that must hold, whichever verb failed ...
//     if (!record->hit.has_value()) break;  // The sequence has n verbs.
//   }
class FaultyOps final : public VhostOps {
 public:
  // Fails the verb number `n` (from 0) of those whose name is `only`; of all
  // if `only` is empty.
  FaultyOps(std::unique_ptr<VhostOps> inner, Fault fault, size_t n,
            std::string only = "");
  ~FaultyOps() override;

  // Shared with the ops, for a test that gave them away.
  struct Record {
    std::vector<std::string> verbs;  // Names of all submitted.
    std::optional<std::string> hit;  // The name of the one that failed.
  };
  std::shared_ptr<const Record> record() const { return record_; }
  VhostOps& inner() { return *inner_; }

  const BackendTraits& traits() const override { return inner_->traits(); }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override;
  void pump(MonotonicTime deadline) override { inner_->pump(deadline); }
  void close(const absl::Status& why) override { inner_->close(why); }
  std::unique_ptr<PeerWatch> watch_for_peer(
      EventLoop& loop, EventLoop::Callback appeared) override {
    return inner_->watch_for_peer(loop, std::move(appeared));
  }
  std::vector<std::string> recent() const override { return inner_->recent(); }
  BackendCounters counters() const override { return inner_->counters(); }

 private:
  bool is_the_one(const std::string& name);
  Pending pass_and_forget(Verb verb, MonotonicTime deadline, Pending::Done done,
                          BatchResult instead);
  void finish_lost(const std::shared_ptr<Pending::Slot>& slot,
                   BatchResult result);

  std::unique_ptr<VhostOps> inner_;
  const Fault fault_;
  const size_t n_;
  const std::string only_;
  size_t seen_ = 0;
  std::shared_ptr<Record> record_ = std::make_shared<Record>();
  BackendSink* sink_ = nullptr;
  // Gone with the ops: a completion may destroy them.
  const std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_FAULTY_OPS_H_
