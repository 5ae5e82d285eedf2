// SPDX-License-Identifier: Apache-2.0
// Memory that no guest has touched stays where it is: nowhere.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "migration/ram_extent.h"
#include "tests/migration/engine/pair.h"

namespace vhost {
namespace {

// What its file has pages for, in bytes.
uint64_t present(const MigrationRam& block) {
  struct stat found = {};
  EXPECT_EQ(::fstat(block.region->fd().get(), &found), 0);
  return static_cast<uint64_t>(found.st_blocks) * 512;
}

class Sparse : public MigrationPair {
 protected:
  static constexpr uint64_t kMoved = 303 << 10;  // What the pair's guest wrote.
  // Rings, and what they share a page with.
  static constexpr uint64_t kRest = 128 << 10;

  static uint64_t present(ToyVmm& vmm, size_t block = 0) {
    return vhost::present(vmm.ram()[block]);
  }
};

TEST_F(Sparse, MemoryStaysSparseOnBothSides) {
  const uint64_t before = present(source_vmm);
  ASSERT_LT(before, kMoved + kRest);
  migrate();
  // Before anybody looks at what it holds.
  const uint64_t sent = present(source_vmm);
  const uint64_t got = present(destination_vmm);
  expect_moved();
  EXPECT_LE(sent, before + kRest);
  EXPECT_LE(got, before + kRest);
  EXPECT_EQ(source->progress().ram_moved, destination->progress().ram_moved);
  EXPECT_GE(source->progress().zero_moved, ToyVmm::kRam - kMoved - kRest);
}

TEST_F(Sparse, PluggedMemoryToo) {
  source_vmm.plug(0);
  source_vmm.guest_writes(ToyVmm::kAdded + ToyVmm::kRam - 4096, 4096, 0x33);
  destination_vmm.plug(0);
  migrate();
  EXPECT_EQ(present(source_vmm, 1), 4096u);
  EXPECT_EQ(present(destination_vmm, 1), 4096u);
  expect_moved();
}

// What a hole gets while it is passed is dirty once more.
TEST_F(Sparse, AHoleThatIsFilledMeanwhileMoves) {
  int rounds = 0;
  source_vmm.on_round = [&] {
    if (!source_vmm.running || ++rounds > 20) return;
    const auto at = static_cast<uint64_t>(rounds) * 0x11000;
    source_vmm.guest_writes((2 << 20) + at, 0x800, 0x44);
    source_vmm.backend_writes((3 << 20) + at, 0x800, 0x55);
  };
  start();
  wire->plan(RecordType::kRamZeroPages, Wire::Do::kCall,
             [&] { source_vmm.guest_writes(0x3f0000, 0x1000, 0x66); });
  ASSERT_TRUE(run());
  expect_moved();
}

// What was there at the destination does not stay.
TEST_F(Sparse, AHoleMakesZerosOfWhatIsThere) {
  destination_vmm.guest_writes(3 << 20, 64 << 10, 0x77);
  migrate();
  expect_moved();
}

TEST(RamExtent, OfPrivateMemoryIsNoHole) {
  auto region = MemoryRegion::create_private("ram", 1 << 20);
  ASSERT_TRUE(region.ok()) << region.status();
  MigrationRam block;
  block.size = 1 << 20;
  block.region = *region;
  const RamExtent all = ram_extent(block, 0, block.size);
  EXPECT_FALSE(all.hole);
  EXPECT_EQ(all.size, block.size);
}

// Regression: a device that is mapped as memory answers any lseek() with its
// position, which was taken for the beginning of data.
TEST(RamExtent, OfADeviceIsNoHole) {
  constexpr uint64_t kSize = 64 << 10;
  UniqueFd device(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(device.valid());
  void* const host = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED,
                            device.get(), 0);
  ASSERT_NE(host, MAP_FAILED);
  MemoryRegion::Options options;
  options.host = static_cast<std::byte*>(host);
  options.size = kSize;
  options.fd = device;
  options.release = [host] { ::munmap(host, kSize); };
  MigrationRam block;
  block.size = kSize;
  block.region = std::make_shared<MemoryRegion>(std::move(options));
  const RamExtent found = ram_extent(block, kSize / 2, kSize / 2);
  EXPECT_FALSE(found.hole);
  EXPECT_EQ(found.size, kSize / 2);
}

TEST(RamExtent, TellsHolesFromPages) {
  auto region = MemoryRegion::create_memfd("sparse", 1 << 20);
  ASSERT_TRUE(region.ok()) << region.status();
  MigrationRam block;
  block.size = (1 << 20) - 0x10000;
  block.region = *region;
  block.offset_in_region = 0x10000;
  const auto expect = [&](uint64_t offset, uint64_t most, uint64_t size,
                          bool hole) {
    const RamExtent found = ram_extent(block, offset, most);
    EXPECT_EQ(found.size, size) << offset;
    EXPECT_EQ(found.hole, hole) << offset;
  };
  expect(0, block.size, block.size, true);
  block.host()[0x20000] = std::byte{1};
  block.host()[0x21fff] = std::byte{1};
  expect(0, block.size, 0x20000, true);
  expect(0, 0x4000, 0x4000, true);
  expect(0x20000, 0x10000, 0x2000, false);
  expect(0x21000, 0x1000, 0x1000, false);
  expect(0x22000, 0x1000, 0x1000, true);
  expect(0x22000, block.size - 0x22000, block.size - 0x22000, true);
}

}  // namespace
}  // namespace vhost
