// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_KVM_FAKE_KVM_FIXTURE_H_
#define TESTS_KVM_FAKE_KVM_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hw/kvm/kvm_notifiers_impl.h"
#include "tests/kvm/fake_vm.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/kvm_notifiers.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {

inline constexpr uint64_t kNotifyGpa = 0xd0000050;
inline constexpr QueueIndex kVq0{0};
inline constexpr QueueIndex kVq1{1};
inline constexpr VectorIndex kVector0{0};
inline constexpr VectorIndex kVector1{1};

inline std::string message_of(const absl::Status& status) {
  return std::string(status.message());
}

// Notifiers over a KVM that can be made to lack and to refuse things.
class Kvm : public ::testing::Test {
 protected:
  static KvmNotifiers::Options default_options() {
    KvmNotifiers::Options options;
    options.name = "disk";
    options.notify_gpa = kNotifyGpa;
    options.gsi = 5;
    return options;
  }

  absl::Status make(KvmNotifiers::Options options = default_options()) {
    auto made = KvmNotifiers::Impl::create(vm.seam(), loop, std::move(options));
    if (!made.ok()) return made.status();
    kvm = *std::move(made);
    vm.take_journal();
    return absl::OkStatus();
  }
  absl::Status make_without_irqfd() {
    vm.without(KVM_CAP_IRQFD);
    return make();
  }

  const EventNotifier& notifier(
      EventNotifier::Kind kind = EventNotifier::Kind::kEventFd) {
    notifiers.push_back(EventNotifier::create(kind).value());
    return notifiers.back();
  }
  absl::Status bind_kick(QueueIndex queue, const EventNotifier& kick) {
    const std::vector<KickBinding> one = {{queue, &kick}};
    return kvm->bind_kicks(one);
  }
  absl::Status bind_call(VectorIndex vector, const EventNotifier& call) {
    const std::vector<CallBinding> one = {{vector, &call}};
    return kvm->bind_calls(one);
  }
  void unbind_call(VectorIndex vector) {
    kvm->unbind_calls(std::vector<VectorIndex>{vector});
  }
  static void signal(const EventNotifier& call) {
    ASSERT_TRUE(call.signal().ok());
  }

  testing::FakeVm vm;
  testing::ManualEventLoop loop;
  std::deque<EventNotifier> notifiers;  // References stay valid.
  std::unique_ptr<KvmNotifiers> kvm;
};

}  // namespace vhost

#endif  // TESTS_KVM_FAKE_KVM_FIXTURE_H_
