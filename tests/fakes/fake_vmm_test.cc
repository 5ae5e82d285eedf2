// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_vmm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

namespace vhost::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(FakeVirtioDevice, LaysRingsOneBehindTheOther) {
  const FakeVirtioDevice device(
      {.queues = 2, .num = 256, .rings_gpa = 0x40000});
  const VirtqueueConfig second = device.queue(QueueIndex{1});
  EXPECT_EQ(second.desc_gpa, 0x50000u);
  EXPECT_EQ(second.avail_gpa, 0x50000u + 16 * 256);
  EXPECT_EQ(second.used_gpa % 4, 0u);
  EXPECT_GE(second.used_gpa, second.avail_gpa + 6 + 2 * 256);
  EXPECT_EQ(second.vector, VectorIndex{1});
  EXPECT_EQ(device.queue(QueueIndex{2}).num, 0u);
}

TEST(FakeVirtioDevice, AFirstRingIsNeverAtAddressZero) {
  const FakeVirtioDevice device({});
  EXPECT_NE(device.queue(QueueIndex{0}).desc_gpa, 0u);
}

TEST(FakeVmm, IndexesOfARingAreThoseInGuestMemory) {
  AddressSpace memory;
  ASSERT_NE(add_memory(memory, 0, 1 << 20), nullptr);
  const FakeVirtioDevice device({});
  const VirtqueueConfig queue = device.queue(QueueIndex{0});
  ASSERT_TRUE(set_used_index(memory, queue, 0xfffe));
  EXPECT_EQ(used_index(memory, queue), 0xfffe);
  ASSERT_TRUE(set_avail_index(memory, queue, 7));
  EXPECT_EQ(*memory.translate(queue.avail_gpa + 2, 1), std::byte{7});
  VirtqueueConfig elsewhere = queue;
  elsewhere.used_gpa = 1 << 24;
  EXPECT_FALSE(set_used_index(memory, elsewhere, 1));
  EXPECT_EQ(used_index(memory, elsewhere), std::nullopt);
}

TEST(FakeNotifierBinding, CountsInterruptsThatReachTheGuest) {
  auto notifier = EventNotifier::create();
  ASSERT_TRUE(notifier.ok());
  FakeNotifierBinding binding;
  const std::array<CallBinding, 1> calls = {
      CallBinding{.vector = VectorIndex{4}, .notifier = &*notifier}};
  ASSERT_TRUE(binding.bind_calls(calls).ok());
  ASSERT_TRUE(notifier->signal().ok());
  EXPECT_EQ(binding.interrupts(VectorIndex{4}), 1u);
  binding.mask(VectorIndex{4});
  ASSERT_TRUE(notifier->signal().ok());
  EXPECT_EQ(binding.interrupts(VectorIndex{4}), 1u);
  EXPECT_TRUE(notifier->test_and_clear());  // It stayed pending.
  binding.raise(VectorIndex{4});
  EXPECT_EQ(binding.interrupts(VectorIndex{4}), 2u);
  EXPECT_THAT(binding.journal,
              ElementsAre("bind_calls 4", "mask 4", "raise 4"));
}

TEST(FakeNotifierBinding, KicksReachTheBoundNotifierOnly) {
  auto notifier = EventNotifier::create();
  ASSERT_TRUE(notifier.ok());
  FakeNotifierBinding binding;
  const std::array<KickBinding, 1> kicks = {
      KickBinding{.queue = QueueIndex{2}, .notifier = &*notifier}};
  const std::array<QueueIndex, 1> queues = {QueueIndex{2}};
  binding.fail_bind_kicks = absl::ResourceExhaustedError("no slot");
  EXPECT_FALSE(binding.bind_kicks(kicks).ok());
  EXPECT_FALSE(binding.kick(QueueIndex{2}));
  ASSERT_TRUE(binding.bind_kicks(kicks).ok());
  EXPECT_TRUE(binding.kick(QueueIndex{2}));
  EXPECT_TRUE(notifier->test_and_clear());
  binding.unbind_kicks(queues);
  EXPECT_FALSE(binding.kick(QueueIndex{2}));
}

TEST(RecordingBackendServices, TranslatesWhatItsEntriesAllow) {
  RecordingBackendServices services;
  services.entries = {{.iova = 0x1000,
                       .size = 0x1000,
                       .gpa = 0x8000,
                       .access = IotlbAccess::kRead}};
  EXPECT_TRUE(services.translate(0x1fff, IotlbAccess::kRead).ok());
  EXPECT_FALSE(services.translate(0x1fff, IotlbAccess::kWrite).ok());
  EXPECT_FALSE(services.translate(0x2000, IotlbAccess::kRead).ok());
  EXPECT_THAT(services.translated, SizeIs(3));
}

TEST(RecordingBackendEvents, BrokenMayDestroyWhatItReports) {
  RecordingBackendEvents events;
  auto victim = std::make_unique<int>(1);
  events.on_broken = [&victim] { victim.reset(); };
  events.broken(absl::UnavailableError("gone"));
  EXPECT_EQ(victim, nullptr);
  EXPECT_THAT(events.broken_with, ElementsAre(absl::UnavailableError("gone")));
  EXPECT_THAT(events.refused_memory, IsEmpty());
}

}  // namespace
}  // namespace vhost::testing
