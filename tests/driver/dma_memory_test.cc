// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/dma_memory.h"

#include <random>
#include <thread>

#include "tests/driver/driver_fixture.h"

namespace vhost {
namespace {

using ::testing::IsEmpty;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;

class DmaMemoryTest : public DriverTest {
 protected:
  static bool is_zero(const DmaBuffer& buffer) {
    for (uint64_t i = 0; i < buffer.size(); ++i) {
      if (buffer.data()[i] != std::byte{0}) return false;
    }
    return true;
  }
};

TEST_F(DmaMemoryTest, IsReachedByDevicesAtItsGuestAddress) {
  const DmaBuffer buffer = dma.allocate(1000).value();
  EXPECT_EQ(buffer.size(), 1000u);
  EXPECT_EQ(memory.translate(buffer.gpa(), buffer.size()), buffer.data());
  EXPECT_EQ(dma.to_gpa(buffer.data() + 5, 10), buffer.gpa() + 5);
  EXPECT_TRUE(memory.find(buffer.gpa())->region->fd().valid());
}

TEST_F(DmaMemoryTest, KnowsNoOtherMemory) {
  const DmaBuffer buffer = dma.allocate(64).value();
  std::byte mine{};
  EXPECT_FALSE(dma.to_gpa(&mine, 1).has_value());
  EXPECT_FALSE(dma.to_gpa(buffer.data(), uint64_t{1} << 40).has_value());
}

TEST_F(DmaMemoryTest, AlignsAsAsked) {
  for (uint64_t alignment = 1; alignment <= 4096; alignment *= 2) {
    const DmaBuffer odd = dma.allocate(1).value();
    const DmaBuffer buffer = dma.allocate(100, alignment).value();
    EXPECT_EQ(buffer.gpa() % alignment, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % alignment, 0u);
  }
}

TEST_F(DmaMemoryTest, RefusesNonsense) {
  EXPECT_EQ(dma.allocate(0).status().code(), kInvalid);
  EXPECT_EQ(dma.allocate(1, 3).status().code(), kInvalid);
  EXPECT_EQ(dma.allocate(1, 8192).status().code(), kInvalid);
  EXPECT_EQ(dma.allocate(~uint64_t{0}).status().code(), kExhausted);
}

TEST_F(DmaMemoryTest, GrowsOnTheLoopsThreadAndServesWhatIsReservedOnAny) {
  constexpr uint64_t kSize = uint64_t{3} << 20;
  const auto elsewhere = [this](uint64_t size) {
    absl::StatusOr<DmaBuffer> buffer = absl::UnknownError("no thread");
    std::thread([&] { buffer = dma.allocate(size); }).join();
    return buffer;
  };
  const absl::StatusOr<DmaBuffer> early = elsewhere(kSize);
  EXPECT_EQ(early.status().code(), kExhausted);
  EXPECT_EQ(dma.region_count(), 0u);

  ASSERT_TRUE(dma.reserve(kSize).ok());
  EXPECT_EQ(dma.region_count(), 1u);
  // What is there need not grow.
  ASSERT_TRUE(dma.reserve(kSize).ok());
  EXPECT_EQ(dma.region_count(), 1u);
  const absl::StatusOr<DmaBuffer> half = elsewhere(kSize / 2);
  const absl::StatusOr<DmaBuffer> rest = elsewhere(kSize / 2);
  EXPECT_TRUE(half.ok() && rest.ok());
  EXPECT_EQ(elsewhere(4096).status().code(), kExhausted);
  EXPECT_EQ(dma.reserve(0).code(), kInvalid);
}

TEST_F(DmaMemoryTest, ZeroesWhatWasUsedBefore) {
  {
    const DmaBuffer buffer = dma.allocate(4096).value();
    std::memset(buffer.data(), 0xff, buffer.size());
  }
  EXPECT_TRUE(is_zero(dma.allocate(4096).value()));
}

TEST_F(DmaMemoryTest, GivesNoByteTwiceAndJoinsWhatComesBack) {
  std::mt19937 random(7);
  std::vector<DmaBuffer> held;
  for (int step = 0; step < 3000; ++step) {
    if (held.size() < 40 && random() % 2 == 0) {
      held.push_back(dma.allocate(1 + random() % 5000).value());
      // Whoever shares a byte with it sees it here.
      ASSERT_TRUE(is_zero(held.back()));
      std::memset(held.back().data(), 0xee, held.back().size());
    } else if (!held.empty()) {
      const size_t i = random() % held.size();
      std::memset(held[i].data(), 0, held[i].size());
      held[i] = std::move(held.back());
      held.pop_back();
    }
  }
  held.clear();
  EXPECT_EQ(dma.bytes_in_use(), 0u);
  EXPECT_EQ(dma.region_count(), 1u);
  EXPECT_TRUE(dma.allocate(uint64_t{2} << 20).ok()) << "in one piece again";
  EXPECT_EQ(dma.region_count(), 1u);
}

TEST_F(DmaMemoryTest, GrowsARegionAtATimeAndKeepsOutOfTheWay) {
  ASSERT_NE(testing::add_memory(memory, 1 << 20, 1 << 20), nullptr);
  const DmaBuffer first = dma.allocate(uint64_t{2} << 20).value();
  const DmaBuffer second = dma.allocate(uint64_t{5} << 20).value();
  EXPECT_EQ(dma.region_count(), 2u);
  EXPECT_GE(first.gpa(), uint64_t{2} << 20);
  EXPECT_EQ(memory.sections().size(), 3u);
}

TEST_F(DmaMemoryTest, GivesUnusedRegionsBack) {
  DmaBuffer first = dma.allocate(uint64_t{2} << 20).value();
  const DmaBuffer second = dma.allocate(uint64_t{2} << 20).value();
  first = DmaBuffer();
  ASSERT_TRUE(dma.trim().ok());
  EXPECT_EQ(dma.region_count(), 1u);
  EXPECT_EQ(memory.sections().size(), 1u);
  EXPECT_EQ(memory.translate(second.gpa(), 1), second.data());
}

TEST_F(DmaMemoryTest, ABufferOutlivesThePool) {
  auto pool = std::make_unique<DmaMemory>(context, memory);
  const DmaBuffer buffer = pool->allocate(64).value();
  pool = nullptr;
  EXPECT_THAT(memory.sections(), IsEmpty());
  std::memset(buffer.data(), 1, buffer.size());
}

TEST_F(DmaMemoryTest, AnAbandonedBufferIsNeverUsedAgain) {
  {
    DmaBuffer buffer = dma.allocate(64).value();
    buffer.abandon();
  }
  EXPECT_EQ(dma.bytes_in_use(), 64u);
  EXPECT_TRUE(dma.trim().ok());
  EXPECT_EQ(dma.region_count(), 1u);
}

TEST_F(DmaMemoryTest, RunningDevicesHaveNewMemoryWhenItIsReturned) {
  make_running();
  const DmaBuffer buffer = dma.allocate(uint64_t{4} << 20).value();
  EXPECT_TRUE(ops->backend.memory.contains(buffer.gpa()));
}

// VD-39
TEST_F(DmaMemoryTest, MoreRegionsThanABackEndTakesAreRefused) {
  make_running();
  std::vector<DmaBuffer> held;
  absl::Status status;
  while (status.ok() && held.size() < 100) {
    auto buffer = dma.allocate(uint64_t{2} << 20);
    status = buffer.status();
    if (buffer.ok()) held.push_back(*std::move(buffer));
  }
  EXPECT_EQ(status.code(), kExhausted);
  EXPECT_EQ(dma.region_count(), ops->traits().max_memory_slots);
  EXPECT_EQ(memory.sections().size(), dma.region_count());
  EXPECT_TRUE(driver->running());
}

// VD-39
TEST_F(DmaMemoryTest, MemoryThatARunningBackEndRefusesIsTakenBack) {
  make_running();
  const size_t regions = memory.sections().size();
  ops->refuse_next("UpdateMemory", absl::AbortedError("no"));
  EXPECT_FALSE(dma.allocate(uint64_t{4} << 20).ok());
  EXPECT_EQ(memory.sections().size(), regions);
  EXPECT_TRUE(driver->running());
  const absl::Status again = dma.allocate(uint64_t{4} << 20).status();
  EXPECT_TRUE(again.ok()) << again;
}

}  // namespace
}  // namespace vhost
