// SPDX-License-Identifier: Apache-2.0
//
// The pages that the real vhost-net marks in the dirty log: those it wrote,
// rings included, and no other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/guest/net_guest.h"

namespace vhost::testing {
namespace {

using ::testing::IsEmpty;
using Pages = NetGuest::Pages;

constexpr uint32_t kReceive = 0;
constexpr uint32_t kSend = 1;
constexpr Duration kLimit = std::chrono::seconds(10);

class KernelLog : public ::testing::Test {
 protected:
  void log_on() {
    ASSERT_EQ(guest_.context().listener().log_global_start(), absl::OkStatus());
    ASSERT_EQ(guest_.context().run_until_log_settled(kLimit), absl::OkStatus());
  }
  // One frame each way; the one that arrives goes into two pages.
  void one_frame_each_way() {
    const uint64_t gpa = NetGuest::buffer_gpa(kReceive, 9) - 500;
    ASSERT_EQ(guest_.offer_at(0, gpa), absl::OkStatus());
    const Frame in = make_frame(1000, 1);
    ASSERT_TRUE(guest_.tap(0).send(in));
    ASSERT_EQ(guest_.receive(0).value_or(Frame()), in);
    const Frame out = make_frame(1000, 2);
    ASSERT_EQ(guest_.send(0, out), absl::OkStatus());
    ASSERT_EQ(guest_.tap(0).receive(), out);
  }
  Pages written() const {
    const uint64_t page = NetGuest::buffer_gpa(kReceive, 9) / NetGuest::kPage;
    return {NetGuest::used_page(kReceive), NetGuest::used_page(kSend), page - 1,
            page};
  }

  NetGuest guest_{{}};
};

TEST_F(KernelLog, HasWhatWasWrittenWhenItWasOnFromTheStart) {
  ASSERT_EQ(guest_.init(), absl::OkStatus());
  log_on();
  ASSERT_EQ(guest_.start(), absl::OkStatus());
  one_frame_each_way();
  ASSERT_EQ(guest_.stop(), absl::OkStatus());
  EXPECT_EQ(guest_.harvest(), written());
  EXPECT_THAT(guest_.harvest(), IsEmpty());
}

TEST_F(KernelLog, HasWhatWasWrittenSinceItWasTurnedOn) {
  ASSERT_EQ(guest_.run(), absl::OkStatus());
  ASSERT_EQ(guest_.offer(0, 1), absl::OkStatus());
  ASSERT_TRUE(guest_.tap(0).send(make_frame(64, 0)));
  ASSERT_EQ(guest_.receive(0).value_or(Frame()), make_frame(64, 0));
  log_on();
  one_frame_each_way();
  ASSERT_EQ(guest_.stop(), absl::OkStatus());
  EXPECT_EQ(guest_.harvest(), written());
  EXPECT_THAT(guest_.harvest(), IsEmpty());
}

TEST_F(KernelLog, HasNothingAfterItWasTurnedOff) {
  ASSERT_EQ(guest_.run(), absl::OkStatus());
  log_on();
  guest_.context().listener().log_global_stop();
  ASSERT_EQ(guest_.context().run_until_log_settled(kLimit), absl::OkStatus());
  one_frame_each_way();
  ASSERT_EQ(guest_.stop(), absl::OkStatus());
  EXPECT_THAT(guest_.harvest(), IsEmpty());
}

// VHOST_SET_LOG_FD: a hint that there is something to harvest.
TEST_F(KernelLog, SaysThatSomethingWasLogged) {
  int hints = 0;
  ASSERT_EQ(guest_.context().set_log_hint([&hints] { ++hints; },
                                          std::chrono::milliseconds(1)),
            absl::OkStatus());
  ASSERT_EQ(guest_.run(), absl::OkStatus());
  log_on();
  one_frame_each_way();
  EXPECT_TRUE(guest_.turn_until([&hints] { return hints > 0; }));
  EXPECT_EQ(guest_.stop(), absl::OkStatus());
}

TEST_F(KernelLog, GrowsWithMemoryThatIsPluggedAndMarkedThere) {
  ASSERT_EQ(guest_.run(), absl::OkStatus());
  log_on();
  ASSERT_NE(add_memory(guest_.memory(), NetGuest::kFar, 1 << 16, "far"),
            nullptr);
  ASSERT_EQ(guest_.context().run_until_memory_settled(kLimit),
            absl::OkStatus());
  ASSERT_EQ(guest_.context().run_until_log_settled(kLimit), absl::OkStatus());
  ASSERT_EQ(guest_.offer_at(0, NetGuest::kFar), absl::OkStatus());
  ASSERT_TRUE(guest_.tap(0).send(make_frame(64, 0)));
  ASSERT_EQ(guest_.receive(0).value_or(Frame()), make_frame(64, 0));
  ASSERT_EQ(guest_.stop(), absl::OkStatus());
  // The kick after the change made the kernel look at the other ring too, and
  // write its flags.
  EXPECT_EQ(guest_.harvest(),
            (Pages{NetGuest::used_page(kReceive), NetGuest::used_page(kSend),
                   NetGuest::kFar / NetGuest::kPage}));
}

}  // namespace
}  // namespace vhost::testing
