// SPDX-License-Identifier: Apache-2.0
// The dirty log under load, as a migration uses it: what it says to copy again
// makes the copy right, whatever the log goes through meanwhile.
#include <array>
#include <chrono>
#include <cstring>
#include <random>
#include <set>

#include "tests/driver/blk_fixture.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/vhost_log.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = kLogPageSize;
constexpr Duration kPatience = std::chrono::seconds(10);

// Buffers of a page each, which only the device writes, and the copy of them
// that another host would have.
class BlkLog : public BlkTest {
 protected:
  static constexpr size_t kBuffers = 16;
  static constexpr size_t kBlocks = 64;

  void SetUp() override {
    backend_options.queues = 2;
    backend_options.latency = std::chrono::microseconds(20);
    ASSERT_NO_FATAL_FAILURE(make(2));
    for (size_t i = 0; i < kBuffers; ++i) {
      auto buffer = dma.allocate(kPage, kPage);
      ASSERT_TRUE(buffer.ok()) << buffer.status();
      buffers_.push_back(*std::move(buffer));
    }
    for (size_t block = 0; block < kBlocks; ++block) {
      fill(span(0), static_cast<uint8_t>(block));
      ASSERT_TRUE(run(BlkOp::kWrite, block * kPage, span(0)).ok());
    }
    ASSERT_TRUE(context.listener().log_global_start().ok());
    ASSERT_TRUE(context.run_until_log_settled(kPatience).ok());
    for (size_t i = 0; i < kBuffers; ++i) copy_buffer(i);
  }

  const DmaSpan& span(size_t i) const { return buffers_[i].span(); }
  void copy_buffer(size_t i) {
    std::memcpy(copy_[i].data(), span(i).data, kPage);
  }

  // Copies what the log names; the number of its pages.
  uint64_t sync() {
    std::set<uint64_t> pages;
    DirtyPages sink([&pages](uint64_t page) { pages.insert(page); });
    const uint64_t count = context.log().harvest_all(sink);
    for (size_t i = 0; i < kBuffers; ++i) {
      if (pages.contains(span(i).gpa / kPage)) copy_buffer(i);
    }
    return count;
  }

  // Reads random blocks into buffers that nobody uses.
  void submit_some() {
    for (size_t i = 0; i < kBuffers; ++i) {
      if (busy_[i] || random_() % 2 == 0) continue;
      BlkRequest request;
      request.op = BlkOp::kRead;
      request.offset = random_() % kBlocks * kPage;
      request.buffers = std::span(&span(i), 1);
      request.cookie = i;
      ASSERT_TRUE(client->submit(request).ok());
      busy_[i] = true;
    }
    ASSERT_TRUE(client->kick().ok());
  }
  void wait_for_some() {
    std::array<BlkCompletion, kBuffers> done;
    const size_t count = client->wait(done);
    for (const BlkCompletion& each : std::span(done).first(count)) {
      ASSERT_TRUE(each.status.ok()) << each.status;
      busy_[each.cookie] = false;
    }
  }

  // What a log goes through while rings run.
  void disturb(int round) {
    if (round % 3 == 0) {
      ASSERT_TRUE(context.switch_log().ok());
      return;
    }
    if (round % 7 != 0) return;
    const uint64_t far = uint64_t{1} << 30;
    if (far_ > 0) {
      ASSERT_TRUE(memory.remove(far_ * far).ok());
    }
    far_ = far_ % 4 + 1;  // Grows, grows, grows, shrinks.
    ASSERT_NE(testing::add_memory(memory, far_ * far, kPage), nullptr);
  }

  std::vector<DmaBuffer> buffers_;
  std::array<std::array<std::byte, kPage>, kBuffers> copy_;
  std::array<bool, kBuffers> busy_ = {};
  uint64_t far_ = 0;
  std::mt19937_64 random_{std::random_device()()};
};

TEST_F(BlkLog, LosesNoPageWhileBitmapsComeAndGo) {
  for (int round = 0; round < 200; ++round) {
    ASSERT_NO_FATAL_FAILURE(submit_some());
    ASSERT_NO_FATAL_FAILURE(disturb(round));
    sync();
    if (client->in_flight() > 0) {
      ASSERT_NO_FATAL_FAILURE(wait_for_some());
    }
    if (round % 5 != 0) continue;
    ASSERT_TRUE(context.run_until_memory_settled(kPatience).ok());
    ASSERT_TRUE(context.run_until_log_settled(kPatience).ok());
  }
  while (client->in_flight() > 0) {
    ASSERT_NO_FATAL_FAILURE(wait_for_some());
  }
  ASSERT_TRUE(driver->stop(VirtioDriver::StopMode::kDrain, kPatience).ok());
  EXPECT_TRUE(driver->device().migration_blockers().empty());

  sync();

  for (size_t i = 0; i < kBuffers; ++i) {
    EXPECT_EQ(std::memcmp(copy_[i].data(), span(i).data, kPage), 0)
        << "buffer " << i;
  }
  EXPECT_EQ(sync(), 0u);
}

}  // namespace
}  // namespace vhost
