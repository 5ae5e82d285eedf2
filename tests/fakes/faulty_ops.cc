// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/faulty_ops.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/testing/fake_backend.h"

namespace vhost::testing {
namespace {

absl::Status status_of(Fault fault, const std::string& name) {
  switch (fault) {
    case Fault::kRefused:
      return absl::AbortedError(absl::StrCat(name, ": refused as planned"));
    case Fault::kUnknown:
      return absl::DeadlineExceededError(
          absl::StrCat(name, ": no answer, as planned"));
    case Fault::kLost:
      break;
  }
  return absl::UnavailableError(
      absl::StrCat(name, ": connection lost, as planned"));
}

// The result of `verb` when all its steps meet the same fate.
BatchResult result_of(const Verb& verb, const BackendTraits& traits,
                      Fault fault, const absl::Status& why) {
  const auto fate = fault == Fault::kRefused ? FakeBackend::Fate::kRefused
                                             : FakeBackend::Fate::kUnknown;
  FakeBackend nobody;
  BatchResult result = nobody.run(verb, traits, [&](Step) {
    return std::optional<FakeBackend::Planned>({fate, why});
  });
  result.status = why;
  return result;
}

}  // namespace

FaultyOps::FaultyOps(std::unique_ptr<VhostOps> inner, Fault fault, size_t n,
                     std::string only)
    : inner_(std::move(inner)), fault_(fault), n_(n), only_(std::move(only)) {}

FaultyOps::~FaultyOps() = default;

void FaultyOps::attach(EventLoop* loop, BackendSink* sink) {
  sink_ = sink;
  inner_->attach(loop, sink);
}

bool FaultyOps::is_the_one(const std::string& name) {
  record_->verbs.push_back(name);
  if (!only_.empty() && name != only_) return false;
  if (seen_++ != n_) return false;
  record_->hit = name;
  return true;
}

Pending FaultyOps::submit(Verb verb, MonotonicTime deadline,
                          Pending::Done done) {
  const std::string name(verb_name(verb));
  if (!is_the_one(name)) {
    return inner_->submit(std::move(verb), deadline, std::move(done));
  }
  const absl::Status why = status_of(fault_, name);
  BatchResult instead = result_of(verb, inner_->traits(), fault_, why);
  if (fault_ == Fault::kUnknown) {
    return pass_and_forget(std::move(verb), deadline, std::move(done),
                           std::move(instead));
  }
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  if (fault_ == Fault::kLost) {
    finish_lost(slot, std::move(instead));
  } else {
    slot->finish(std::move(instead));
  }
  return Pending(slot);
}

Pending FaultyOps::pass_and_forget(Verb verb, MonotonicTime deadline,
                                   Pending::Done done, BatchResult instead) {
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  auto held = std::make_shared<Pending>();
  *held = inner_->submit(
      std::move(verb), deadline,
      [this, slot, result = std::move(instead)](BatchResult) mutable {
        finish_lost(slot, std::move(result));
      });
  if (slot->armed()) slot->set_on_abandon([held] { *held = Pending(); });
  return Pending(slot);
}

// Closes the back-end, completes the verb, then says that it is gone.
void FaultyOps::finish_lost(const std::shared_ptr<Pending::Slot>& slot,
                            BatchResult result) {
  const std::weak_ptr<char> alive = alive_;
  const absl::Status why = result.status;
  BackendSink* const sink = sink_;
  inner_->close(why);
  slot->finish(std::move(result));
  if (!alive.expired() && sink != nullptr) sink->on_lost(why);
}

}  // namespace vhost::testing
