// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/event_notifier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace vhost {
namespace {

bool is_readable(FdRef fd) {
  pollfd entry{.fd = fd.get(), .events = POLLIN, .revents = 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0;
}

class EachKind : public ::testing::TestWithParam<EventNotifier::Kind> {
 protected:
  EventNotifier notifier_ = *EventNotifier::create(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Notifier, EachKind,
                         ::testing::Values(EventNotifier::Kind::kEventFd,
                                           EventNotifier::Kind::kPipe2,
                                           EventNotifier::Kind::kPipe));

TEST_P(EachKind, StartsUnset) {
  EXPECT_FALSE(is_readable(notifier_.read_fd()));
  EXPECT_FALSE(notifier_.test_and_clear());
}

TEST_P(EachKind, IsReadableOnceSignalled) {
  ASSERT_TRUE(notifier_.signal().ok());
  EXPECT_TRUE(is_readable(notifier_.read_fd()));
}

TEST_P(EachKind, TestAndClearTakesAllSignalsAtOnce) {
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(notifier_.signal().ok());
  EXPECT_TRUE(notifier_.test_and_clear());
  EXPECT_FALSE(is_readable(notifier_.read_fd()));
  EXPECT_FALSE(notifier_.test_and_clear());
}

TEST_P(EachKind, NeitherEndBlocksWhenFullOrEmpty) {
  // 64 KiB of pipe hold 8192 signals.
  for (int i = 0; i < 10'000; ++i) ASSERT_TRUE(notifier_.signal().ok());
  EXPECT_TRUE(notifier_.test_and_clear());
  EXPECT_FALSE(notifier_.test_and_clear());
}

TEST_P(EachKind, IsSetByAWriteToTheDescriptorItHandsOut) {
  const uint64_t one = 1;
  ASSERT_EQ(::write(notifier_.write_fd().get(), &one, sizeof(one)),
            ssize_t{sizeof(one)});
  EXPECT_TRUE(notifier_.test_and_clear());
}

TEST_P(EachKind, IsNotInheritedByAnExec) {
  for (const FdRef fd : {notifier_.read_fd(), notifier_.write_fd()}) {
    EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_NE(::fcntl(fd.get(), F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST_P(EachKind, KeepsItsEndsWhenMoved) {
  EventNotifier moved = std::move(notifier_);
  ASSERT_TRUE(moved.signal().ok());
  EXPECT_TRUE(moved.test_and_clear());
}

TEST(EventNotifier, IsAnEventfdWhereTheKernelHasOne) {
  const absl::StatusOr<EventNotifier> notifier = EventNotifier::create();
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  EXPECT_EQ(notifier->kind(), EventNotifier::Kind::kEventFd);
  EXPECT_EQ(notifier->read_fd(), notifier->write_fd());
}

TEST(EventNotifier, HasTwoEndsWhenItIsAPipe) {
  const auto notifier = EventNotifier::create(EventNotifier::Kind::kPipe);
  ASSERT_TRUE(notifier.ok()) << notifier.status();
  EXPECT_NE(notifier->read_fd(), notifier->write_fd());
}

TEST(EventNotifier, AdoptsAnEventfdOfTheVmm) {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const int number = fd.get();
  const EventNotifier notifier = EventNotifier::adopt(std::move(fd));
  EXPECT_EQ(notifier.read_fd().get(), number);
  ASSERT_TRUE(notifier.signal().ok());
  EXPECT_TRUE(notifier.test_and_clear());
}

TEST(EventNotifier, ClosesItsDescriptors) {
  int number = -1;
  {
    const EventNotifier notifier = *EventNotifier::create();
    number = notifier.read_fd().get();
  }
  EXPECT_EQ(::fcntl(number, F_GETFD), -1);
}

}  // namespace
}  // namespace vhost
