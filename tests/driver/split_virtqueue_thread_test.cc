// SPDX-License-Identifier: Apache-2.0
//
// The rules that only show with the device on another processor: what is
// published is complete (VD-1, VD-2), no kick and no signal is missed (VD-3,
// VD-7).
#include <poll.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/driver/ring_device.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/split_virtqueue.h"

namespace vhost {
namespace {

// How long a side that sleeps waits before the signal counts as lost.
constexpr int kLostMs = 20'000;

// Whether `notifier` was signalled in time; it is unset afterwards.
bool wait_for(const EventNotifier& notifier) {
  pollfd fd = {notifier.read_fd().get(), POLLIN, 0};
  const bool in_time = ::poll(&fd, 1, kLostMs) == 1;
  notifier.test_and_clear();
  return in_time;
}

// A device on a thread of its own: turns every request's first word round and
// writes it to the request's answer.
class DeviceThread {
 public:
  struct Options {
    bool polls = false;  // Never asks for kicks; else sleeps between them.
    bool event_index = false;
  };

  DeviceThread(const RingMemory& memory, const Options& options)
      : options_(options),
        device_(memory.parts(), options.event_index),
        kick_(EventNotifier::create().value()),
        call_(EventNotifier::create().value()) {
    // The first request is not to be missed.
    if (options.polls) {
      device_.disable_notifications();
    } else {
      device_.enable_notifications();
    }
    thread_ = std::thread([this] { run(); });
  }

  ~DeviceThread() {
    stop_.store(true);
    EXPECT_TRUE(kick_.signal().ok());
    thread_.join();
    EXPECT_THAT(device_.complaints, ::testing::IsEmpty());
    EXPECT_FALSE(missed_kick_);
  }

  const EventNotifier& kick() const { return kick_; }
  const EventNotifier& call() const { return call_; }

 private:
  void run() {
    int idle = 0;
    while (!stop_.load(std::memory_order_relaxed)) {
      idle = serve() ? 0 : idle + 1;
      // A machine with one processor for both goes on, too.
      if (options_.polls && idle % 1024 == 1023) std::this_thread::yield();
      if (idle == 0 || options_.polls) continue;
      device_.enable_notifications();
      if (device_.has_available()) continue;
      if (!wait_for(kick_)) missed_kick_ = true;
      if (missed_kick_) return;
    }
  }

  bool serve() {
    const auto chain = device_.pop();
    if (!chain.has_value()) return false;
    uint64_t word = 0;
    std::memcpy(&word, reinterpret_cast<const void*>(chain->readable[0].addr),
                sizeof(word));
    word = ~word;
    std::memcpy(reinterpret_cast<void*>(chain->writable[0].addr), &word,
                sizeof(word));
    device_.complete(chain->head, sizeof(word));
    if (device_.signal_needed()) {
      EXPECT_TRUE(call_.signal().ok());
    }
    return true;
  }

  const Options options_;
  RingDevice device_;
  EventNotifier kick_;
  EventNotifier call_;
  std::atomic<bool> stop_ = false;
  bool missed_kick_ = false;
  std::thread thread_;
};

struct Message {
  uint64_t question = 0;
  uint64_t answer = 0;
};

// A moment that grows with `turns` and orders no memory.
void pause(uint32_t turns) {
  std::atomic<uint32_t> left = turns;
  while (left.load(std::memory_order_relaxed) != 0) {
    left.store(left.load(std::memory_order_relaxed) - 1,
               std::memory_order_relaxed);
  }
}

// Submits `message` with `cookie`.
void ask(SplitVirtqueue& queue, Message& message, uint64_t cookie) {
  auto request = queue.begin(2, cookie);
  ASSERT_TRUE(request.ok());
  ASSERT_TRUE(
      request.add_readable(reinterpret_cast<uintptr_t>(&message.question), 8)
          .ok());
  ASSERT_TRUE(
      request.add_writable(reinterpret_cast<uintptr_t>(&message.answer), 8)
          .ok());
  ASSERT_TRUE(request.submit().ok());
}

// Keeps `depth` requests in flight until `rounds` are done, sleeping whenever
// nothing is there; checks every answer.
void exchange(SplitVirtqueue& queue, const DeviceThread& device, uint32_t depth,
              uint64_t rounds, bool sleeps) {
  std::vector<Message> messages(depth);
  std::vector<uint64_t> idle;
  for (uint64_t i = 0; i < depth; ++i) idle.push_back(i);
  std::array<RingCompletion, 16> done;
  uint64_t asked = 0;
  uint64_t empty = 0;
  for (uint64_t answered = 0; answered < rounds;) {
    for (; !idle.empty() && asked < rounds; idle.pop_back(), ++asked) {
      Message& message = messages[idle.back()];
      message.question = asked * 0x9e3779b97f4a7c15;
      ask(queue, message, idle.back());
    }
    if (queue.publish()) {
      ASSERT_TRUE(device.kick().signal().ok());
    }
    const size_t count = queue.poll(done).value();
    for (size_t i = 0; i < count; ++i) {
      const Message& message = messages[done[i].cookie];
      ASSERT_EQ(message.answer, ~message.question);
      idle.push_back(done[i].cookie);
    }
    answered += count;
    if (count != 0) continue;
    if (!sleeps) {
      if (++empty % 64 == 0) std::this_thread::yield();
      continue;
    }
    if (queue.enable_interrupts()) {
      ASSERT_TRUE(wait_for(device.call())) << "after " << answered;
    }
    queue.disable_interrupts();
  }
}

// A busy-polling device that has no event index and a driver that sleeps for
// every single request: without a full fence between asking for a signal and
// looking again, both sides wait sooner or later.  The pause in front moves the
// device's answer across that moment.
TEST(SplitVirtqueueThreads, DepthOneAgainstABusyPollingDeviceDoesNotHang) {
  RingMemory memory(8);
  auto queue = SplitVirtqueue::create(memory.options()).value();
  DeviceThread device(memory, {.polls = true});
  Message message;
  std::array<RingCompletion, 1> done;
  for (uint32_t round = 0; round < 500'000; ++round) {
    message.question = round;
    ask(*queue, message, round);
    ASSERT_FALSE(queue->publish()) << "it polls";
    pause(round * 7 % 400);
    while (queue->enable_interrupts()) {
      ASSERT_TRUE(wait_for(device.call())) << "in round " << round;
    }
    queue->disable_interrupts();
    ASSERT_EQ(queue->poll(done).value(), 1u);
    ASSERT_EQ(message.answer, ~message.question);
  }
}

TEST(SplitVirtqueueThreads, NeitherSideMissesTheOtherWhenBothSleep) {
  for (const bool event_index : {false, true}) {
    for (const uint32_t depth : {1u, 4u}) {
      RingMemory memory(8);
      SplitVirtqueue::Options options = memory.options();
      options.event_index = event_index;
      auto queue = SplitVirtqueue::create(options).value();
      DeviceThread device(memory, {.event_index = event_index});
      exchange(*queue, device, depth, 10'000, true);
    }
  }
}

TEST(SplitVirtqueueThreads, EverythingPublishedIsCompleteWhenBothPoll) {
  for (const uint32_t indirect : {0u, 4u}) {
    RingMemory memory(128, indirect);
    auto queue = SplitVirtqueue::create(memory.options()).value();
    DeviceThread device(memory, {.polls = true});
    exchange(*queue, device, 64, 50'000, false);
  }
}

}  // namespace
}  // namespace vhost
