// SPDX-License-Identifier: Apache-2.0
//
// One suite over every EventLoop: what the library relies on.
#include "vhostdev/event_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/host/turned_loop.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;
using vhost::testing::LoopKind;
using vhost::testing::make_turned_loop;
using vhost::testing::ManualEventLoop;
using vhost::testing::TurnedLoop;

class EachLoop : public ::testing::TestWithParam<LoopKind> {
 protected:
  // One turn, waiting for something to happen for a little while.
  void turn() { turner_->turn(milliseconds(5)); }

  std::unique_ptr<TurnedLoop> turner_ = make_turned_loop(GetParam());
  EventLoop& loop_ = turner_->loop();
};

INSTANTIATE_TEST_SUITE_P(Loop, EachLoop,
                         ::testing::ValuesIn(testing::loop_kinds()),
                         [](const auto& loop) { return name_of(loop.param); });

constexpr IoEvents kReadable{.readable = true};

TEST_P(EachLoop, RunsWhatIsPostedInOrder) {
  std::vector<int> ran;
  for (int i = 0; i < 4; ++i) loop_.post([&ran, i] { ran.push_back(i); });
  EXPECT_TRUE(ran.empty());
  turner_->turn_until([&] { return ran.size() == 4; });
  EXPECT_THAT(ran, ElementsAre(0, 1, 2, 3));
}

TEST_P(EachLoop, RunsAPostFromAnotherThreadOnItsOwn) {
  bool on_loop_thread = false;
  std::thread other([&] {
    EXPECT_FALSE(loop_.on_loop_thread());
    loop_.post([&] { on_loop_thread = loop_.on_loop_thread(); });
  });
  other.join();
  EXPECT_TRUE(turner_->turn_until([&] { return on_loop_thread; }));
}

TEST_P(EachLoop, TellsAWatchThatItsDescriptorIsReadable) {
  const EventNotifier notifier = *EventNotifier::create();
  int calls = 0;
  const auto watch =
      loop_.watch(notifier.read_fd(), kReadable, [&](IoEvents events) {
        EXPECT_TRUE(events.readable);
        notifier.test_and_clear();
        ++calls;
      });
  turn();
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(notifier.signal().ok());
  EXPECT_TRUE(turner_->turn_until([&] { return calls == 1; }));
}

TEST_P(EachLoop, RepeatsWhileADescriptorStaysReady) {
  const EventNotifier notifier = *EventNotifier::create();
  int calls = 0;
  const auto watch =
      loop_.watch(notifier.read_fd(), kReadable, [&](IoEvents) { ++calls; });
  ASSERT_TRUE(notifier.signal().ok());
  EXPECT_TRUE(turner_->turn_until([&] { return calls >= 3; }));
}

TEST_P(EachLoop, KeepsADestroyedWatchSilent) {
  const EventNotifier notifier = *EventNotifier::create();
  bool called = false;
  auto watch = loop_.watch(notifier.read_fd(), kReadable,
                           [&](IoEvents) { called = true; });
  ASSERT_TRUE(notifier.signal().ok());
  watch.reset();
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_FALSE(called);
}

TEST_P(EachLoop, LetsACallbackDestroyItsOwnWatch) {
  const EventNotifier notifier = *EventNotifier::create();
  std::unique_ptr<EventLoop::Watch> watch;
  const auto witness = std::make_shared<int>(0);
  watch =
      loop_.watch(notifier.read_fd(), kReadable, [&watch, witness](IoEvents) {
        watch.reset();
        ++*witness;  // The closure must still be alive.
      });
  ASSERT_TRUE(notifier.signal().ok());
  EXPECT_TRUE(turner_->turn_until([&] { return *witness == 1; }));
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_EQ(*witness, 1);
}

TEST_P(EachLoop, LetsOneWatchDestroyAnotherThatIsReadyToo) {
  const EventNotifier notifiers[2] = {*EventNotifier::create(),
                                      *EventNotifier::create()};
  std::unique_ptr<EventLoop::Watch> watches[2];
  int calls = 0;
  for (int i = 0; i < 2; ++i) {
    watches[i] = loop_.watch(notifiers[i].read_fd(), kReadable,
                             [&watches, &calls, i](IoEvents) {
                               ++calls;
                               watches[1 - i].reset();
                               watches[i].reset();
                             });
    ASSERT_TRUE(notifiers[i].signal().ok());
  }
  turner_->turn_until([&] { return calls > 0; });
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_EQ(calls, 1);
}

TEST_P(EachLoop, WatchesForSomethingElseWhenTold) {
  // A pipe's write end is never readable and, while empty, writable.
  const auto pipe = *EventNotifier::create(EventNotifier::Kind::kPipe2);
  int writable = 0;
  const auto watch =
      loop_.watch(pipe.write_fd(), IoEvents{}, [&](IoEvents events) {
        if (events.writable) ++writable;
      });
  turn();
  EXPECT_EQ(writable, 0);
  watch->set_events({.writable = true});
  EXPECT_TRUE(turner_->turn_until([&] { return writable > 0; }));
  watch->set_events({});
  const int before = writable;
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_EQ(writable, before);
}

TEST_P(EachLoop, TellsAHangUpEvenIfNobodyAsked) {
  UniqueFd read_end;
  {
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    read_end = UniqueFd(fds[0]);
    ::close(fds[1]);
  }
  bool hung_up = false;
  const auto watch = loop_.watch(
      read_end, IoEvents{}, [&](IoEvents events) { hung_up = events.hung_up; });
  EXPECT_TRUE(turner_->turn_until([&] { return hung_up; }));
}

TEST_P(EachLoop, TakesTwoWatchesOfOneDescriptor) {
  const EventNotifier notifier = *EventNotifier::create();
  int first = 0;
  int second = 0;
  auto one =
      loop_.watch(notifier.read_fd(), kReadable, [&](IoEvents) { ++first; });
  const auto two =
      loop_.watch(notifier.read_fd(), kReadable, [&](IoEvents) { ++second; });
  ASSERT_TRUE(notifier.signal().ok());
  EXPECT_TRUE(turner_->turn_until([&] { return first > 0 && second > 0; }));
  one.reset();
  const int before = second;
  EXPECT_TRUE(turner_->turn_until([&] { return second > before; }));
}

TEST_P(EachLoop, RunsEachTimerOnceAndNotBeforeItsTime) {
  std::vector<int> ran;
  const MonotonicTime start = loop_.now();
  const auto late = loop_.timer(start + milliseconds(8), [&] {
    EXPECT_GE(loop_.now(), start + milliseconds(8));
    ran.push_back(2);
  });
  const auto early = loop_.timer(start + milliseconds(2), [&] {
    EXPECT_GE(loop_.now(), start + milliseconds(2));
    ran.push_back(1);
  });
  turner_->turn_until([&] { return ran.size() == 2; });
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_THAT(ran, UnorderedElementsAre(1, 2));
}

TEST_P(EachLoop, KeepsADestroyedTimerSilent) {
  bool called = false;
  auto timer = loop_.timer(loop_.now(), [&] { called = true; });
  timer.reset();
  for (int i = 0; i < 3; ++i) turn();
  EXPECT_FALSE(called);
}

TEST_P(EachLoop, LetsATimerDestroyAndReplaceItself) {
  int calls = 0;
  std::unique_ptr<EventLoop::Timer> timer;
  std::function<void()> arm = [&] {
    timer = loop_.timer(loop_.now() + milliseconds(1), [&] {
      if (++calls < 3) arm();
    });
  };
  arm();
  EXPECT_TRUE(turner_->turn_until([&] { return calls == 3; }));
}

TEST(EpollEventLoop, RunReturnsWhenAnotherThreadQuitsIt) {
  const auto loop = *EpollEventLoop::create();
  std::thread other;
  loop->post([&] { other = std::thread([&] { loop->quit(); }); });
  EXPECT_TRUE(loop->run().ok());
  other.join();
}

TEST(EpollEventLoop, IsReadableWhenItHasSomethingToDo) {
  const auto inner = *EpollEventLoop::create();
  const auto outer = *EpollEventLoop::create();
  bool ran = false;
  const auto watch = outer->watch(inner->fd(), kReadable, [&](IoEvents) {
    EXPECT_TRUE(inner->run_once(Duration::zero()).ok());
  });
  inner->post([&] { ran = true; });
  ASSERT_TRUE(outer->run_once(std::chrono::seconds(5)).ok());
  EXPECT_TRUE(ran);
}

TEST(ManualEventLoop, LetsNoTimePassByItself) {
  ManualEventLoop loop;
  const MonotonicTime before = loop.now();
  bool called = false;
  const auto timer =
      loop.timer(before + milliseconds(1), [&] { called = true; });
  loop.run_ready();
  EXPECT_EQ(loop.now(), before);
  EXPECT_FALSE(called);
  loop.advance(milliseconds(1));
  EXPECT_TRUE(called);
}

TEST(ManualEventLoop, CountsWhatIsLeftBehind) {
  ManualEventLoop loop;
  auto timer = loop.timer(loop.now() + milliseconds(1), [] {});
  loop.post([] {});
  EXPECT_EQ(loop.timers(), 1u);
  EXPECT_EQ(loop.posted(), 1u);
  timer.reset();
  loop.run_ready();
  EXPECT_EQ(loop.timers(), 0u);
  EXPECT_EQ(loop.posted(), 0u);
}

}  // namespace
}  // namespace vhost
