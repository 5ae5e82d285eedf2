// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/dma_memory.h"

#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "tests/driver/driver_fixture.h"
#include "tests/driver/moving_host.h"

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

// ---------------------------------------------------------------------------
// Memory that comes from another host
// ---------------------------------------------------------------------------

TEST_F(DmaMemoryTest, IsMadeAgainWhereItWas) {
  const DmaBuffer first = dma.allocate(3000).value();
  const DmaBuffer big = dma.allocate(uint64_t{3} << 20, 4096).value();
  std::memset(big.data(), 0x5a, big.size());
  MovingHost there(loop);
  ASSERT_TRUE(there.take_memory(dma).ok());
  ASSERT_EQ(there.dma.region_count(), dma.region_count());
  for (size_t i = 0; i < dma.region_count(); ++i) {
    EXPECT_EQ(there.dma.regions()[i].name, dma.regions()[i].name);
    EXPECT_EQ(there.dma.regions()[i].gpa, dma.regions()[i].gpa);
    EXPECT_EQ(there.dma.regions()[i].size, dma.regions()[i].size);
  }
  EXPECT_EQ(there.dma.bytes_in_use(), 0u);
  const auto adopted = there.dma.allocate_at(big.gpa(), big.size());
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ(adopted->gpa(), big.gpa());
  // As it is, not cleared.
  EXPECT_EQ(std::memcmp(adopted->data(), big.data(), big.size()), 0);
  EXPECT_EQ(there.memory.translate(big.gpa(), big.size()), adopted->data());
  // More of it has a name of its own.
  const DmaBuffer more = there.dma.allocate(uint64_t{8} << 20).value();
  EXPECT_NE(there.dma.regions().back().name, there.dma.regions()[0].name);
}

TEST_F(DmaMemoryTest, APieceIsAdoptedOnce) {
  const DmaBuffer buffer = dma.allocate(1000).value();
  MovingHost there(loop);
  ASSERT_TRUE(there.take_memory(dma).ok());
  const uint64_t gpa = buffer.gpa();
  {
    const auto once = there.dma.allocate_at(gpa, 1000);
    ASSERT_TRUE(once.ok());
    EXPECT_EQ(there.dma.allocate_at(gpa, 1000).status().code(), kInvalid);
    EXPECT_EQ(there.dma.allocate_at(gpa + 960, 64).status().code(), kInvalid);
    EXPECT_TRUE(there.dma.allocate_at(gpa + 1024, 64).ok());
    // Nor does anybody else get it.
    const DmaBuffer other = there.dma.allocate(64).value();
    EXPECT_GE(other.gpa(), gpa + 1000);
  }
  EXPECT_TRUE(there.dma.allocate_at(gpa, 2048).ok());
}

TEST_F(DmaMemoryTest, APieceThatNoPoolHasIsRefused) {
  ASSERT_TRUE(dma.reserve(1).ok());
  const DmaMemory::Region region = dma.regions()[0];
  const auto at = [this](uint64_t gpa, uint64_t size) {
    return dma.allocate_at(gpa, size).status().code();
  };
  EXPECT_EQ(at(region.gpa, 0), kInvalid);
  EXPECT_EQ(at(region.gpa + 1, 64), kInvalid);
  EXPECT_EQ(at(region.gpa - 64, 64), kInvalid);
  EXPECT_EQ(at(region.gpa + region.size, 64), kInvalid);
  EXPECT_EQ(at(region.gpa + region.size - 64, 128), kInvalid);
  EXPECT_EQ(at(region.gpa, region.size + 1), kInvalid);
  EXPECT_EQ(at(region.gpa, ~uint64_t{0}), kInvalid);
  EXPECT_EQ(at(~uint64_t{63}, 64), kInvalid);
  EXPECT_EQ(dma.bytes_in_use(), 0u);
  EXPECT_TRUE(dma.allocate_at(region.gpa, region.size).ok());
}

TEST_F(DmaMemoryTest, ARegionThatCannotBeThereIsRefused) {
  const auto add = [this](const char* name, uint64_t gpa, uint64_t size) {
    return dma.add_region({name, gpa, size, nullptr}).code();
  };
  ASSERT_TRUE(dma.add_region({"dma0", 1 << 20, 8192, nullptr}).ok());
  EXPECT_EQ(add("dma0", 2 << 20, 8192), kInvalid);
  EXPECT_EQ(add("dma1", (1 << 20) + 4096, 8192), kInvalid);
  EXPECT_EQ(add("dma1", 100, 4096), kInvalid);
  EXPECT_EQ(add("dma1", 4096, 0), kInvalid);
  EXPECT_EQ(add("dma1", 4096, 4097), kInvalid);
  EXPECT_EQ(add("dma1", 4096, ~uint64_t{4095}), kInvalid);
  EXPECT_EQ(add("dma1", ~uint64_t{4095}, 8192), kInvalid);
  EXPECT_EQ(dma.region_count(), 1u);
  EXPECT_EQ(memory.sections().size(), 1u);
}

using Ranges = std::vector<std::pair<uint64_t, uint64_t>>;

TEST_F(DmaMemoryTest, WhatNobodyAdoptedIsRetired) {
  const auto in_use = [](const DmaMemory& pool) {
    Ranges out;
    pool.for_each_in_use(
        [&out](uint64_t gpa, uint64_t size) { out.emplace_back(gpa, size); });
    return out;
  };
  const DmaBuffer kept = dma.allocate(128).value();
  DmaBuffer lost = dma.allocate(128).value();
  const DmaBuffer last = dma.allocate(64, 4096).value();
  const Ranges ranges = in_use(dma);
  EXPECT_EQ(ranges, (Ranges{{kept.gpa(), 256}, {last.gpa(), 64}}));
  MovingHost there(loop);
  ASSERT_TRUE(there.take_memory(dma).ok());
  EXPECT_THAT(in_use(there.dma), IsEmpty());
  {
    const auto adopted = there.dma.allocate_at(kept.gpa(), 128);
    for (const auto& [gpa, size] : ranges) {
      EXPECT_TRUE(there.dma.retire(gpa, size).ok());
    }
    EXPECT_EQ(in_use(there.dma), ranges);
  }
  // What was adopted comes back, what was retired does not.
  EXPECT_EQ(in_use(there.dma), (Ranges{{lost.gpa(), 128}, {last.gpa(), 64}}));
  const uint64_t end = there.dma.regions()[0].size;
  EXPECT_EQ(there.dma.retire(kept.gpa(), end + 64).code(), kInvalid);
  EXPECT_EQ(there.dma.retire(kept.gpa() + 1, 64).code(), kInvalid);
  EXPECT_EQ(there.dma.retire(0, 64).code(), kInvalid);
}

TEST_F(DmaMemoryTest, TellsWhatMayHaveBeenWritten) {
  const auto written = [this] {
    Ranges out;
    dma.for_each_written(
        [&out](uint64_t gpa, uint64_t size) { out.emplace_back(gpa, size); });
    return out;
  };
  ASSERT_TRUE(dma.reserve(1).ok());
  EXPECT_THAT(written(), IsEmpty());
  const uint64_t base = dma.regions()[0].gpa;
  DmaBuffer first = dma.allocate(1000).value();
  {
    // What was given back was written all the same.
    const DmaBuffer second = dma.allocate(4096, 4096).value();
    EXPECT_EQ(second.gpa(), base + 4096);
  }
  EXPECT_EQ(written(), (Ranges{{base, 8192}}));
  // What was adopted, too.
  const auto third = dma.allocate_at(base + (1 << 20), 64);
  EXPECT_EQ(written(), (Ranges{{base, (1 << 20) + 64}}));
}

}  // namespace
}  // namespace vhost
