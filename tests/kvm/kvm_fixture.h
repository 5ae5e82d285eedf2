// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_KVM_KVM_FIXTURE_H_
#define TESTS_KVM_KVM_FIXTURE_H_

#include <gtest/gtest.h>
#include <poll.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "tests/kvm/tiny_guest.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/kvm_notifiers.h"

namespace vhost {

// A guest of KVM, a loop that counts its wake-ups, and notifiers in between.
// Skipped where there is no KVM.
class RealKvm : public ::testing::Test {
 protected:
  static constexpr VectorIndex kVector{0};

  void SetUp() override { set_up_guest(nullptr); }

  void set_up_guest(std::shared_ptr<MemoryRegion> ram) {
    auto made = testing::TinyGuest::create(std::move(ram));
    if (absl::IsUnavailable(made.status())) {
      GTEST_SKIP() << made.status().message();
    }
    ASSERT_TRUE(made.ok()) << made.status();
    guest = *std::move(made);
  }

  static KvmNotifiers::Options default_options() {
    KvmNotifiers::Options options;
    options.notify_gpa = testing::TinyGuest::kDoorbell;
    options.gsi = testing::TinyGuest::kGsi;
    return options;
  }
  static KvmNotifiers::Options without_irqfd() {
    KvmNotifiers::Options options = default_options();
    options.irqfd = false;
    return options;
  }
  absl::Status make(KvmNotifiers::Options options = default_options()) {
    auto made = KvmNotifiers::create(guest->vm(), *loop, std::move(options));
    if (made.ok()) kvm = *std::move(made);
    return made.status();
  }

  const EventNotifier& notifier() {
    notifiers.push_back(
        EventNotifier::create(EventNotifier::Kind::kEventFd).value());
    return notifiers.back();
  }
  const EventNotifier& bound_call() {
    const EventNotifier& call = notifier();
    const std::vector<CallBinding> one = {{kVector, &call}};
    EXPECT_TRUE(kvm->bind_calls(one).ok());
    return call;
  }

  // Serves the loop if it has something to do, or has before `wait` is over.
  void turn(std::chrono::microseconds wait) {
    pollfd ready = {};
    ready.fd = loop->fd().get();
    ready.events = POLLIN;
    timespec limit = {};
    limit.tv_nsec = std::chrono::nanoseconds(wait).count();
    if (::ppoll(&ready, 1, &limit, nullptr) != 1) return;
    ++wakeups_;
    EXPECT_TRUE(loop->run_once(Duration(0)).ok());
  }
  // Turns for up to a minute, for `done` to become true.
  bool turn_until(absl::FunctionRef<bool()> done) {
    const auto limit =
        std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!done()) {
      if (std::chrono::steady_clock::now() > limit) return false;
      turn(std::chrono::microseconds(50));
    }
    return true;
  }
  // How often the loop had something to do.
  uint64_t wakeups() {
    turn(std::chrono::microseconds(0));
    return wakeups_;
  }

  // Ends in this order: the binding before the machine, the loop last.
  std::unique_ptr<EpollEventLoop> loop = EpollEventLoop::create().value();
  std::deque<EventNotifier> notifiers;  // References stay valid.
  std::unique_ptr<testing::TinyGuest> guest;
  std::unique_ptr<KvmNotifiers> kvm;

 private:
  uint64_t wakeups_ = 0;
};

}  // namespace vhost

#endif  // TESTS_KVM_KVM_FIXTURE_H_
