// SPDX-License-Identifier: Apache-2.0
// A guest that keeps disks of real vhost-user back-ends busy moves: what they
// write to its memory is known from the dirty log alone.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/migration/engine/model_host.h"
#include "vhostdev/migration.h"

namespace vhost {
namespace {

constexpr size_t kDisks = 3;
constexpr uint64_t kSectors = 256;

class ModelMigration : public TwoHosts {
 protected:
  ModelMigration() {
    for (size_t i = 0; i < kDisks; ++i) {
      std::string content(kSectors * 512, 0);
      for (size_t b = 0; b < content.size(); ++b) {
        content[b] = static_cast<char>(b / 512 + i);
      }
      add_disk(content);
    }
    source = std::make_unique<Host>(*loop, folder, "source", disks);
    destination = std::make_unique<Host>(*loop, folder, "destination", disks);
    bring_up();
  }

  // Every disk has one request under way, whoever runs the guest; each read
  // must bring what is on the disk.
  void work() override {
    Host* host = nullptr;
    if (source->vmm->running) host = source.get();
    if (destination->vmm->running) host = destination.get();
    if (host == nullptr) return;
    for (size_t i = 0; i < kDisks; ++i) {
      testing::BlockRing ring = host->ring(i);
      if (ring.used_index() != issued[i]) continue;
      if (issued[i] != 0) {
        EXPECT_EQ(ring.status(), 0) << "disk " << i;
        EXPECT_EQ(std::to_integer<int>(*ring.data()),
                  static_cast<int>(sector_of(issued[i]) + i) & 0xff)
            << "disk " << i << " request " << issued[i];
      }
      ++issued[i];
      ring.read(sector_of(issued[i]));
      const VirtqueueConfig queue =
          host->vmm->toys[i]->guest.queue(QueueIndex{0});
      // What the driver writes; not what the device does.
      host->vmm->writes.add(queue.desc_gpa, 64);
      host->vmm->writes.add(queue.avail_gpa, 1024);
      host->vmm->writes.add(Host::data_of(i), 64);
      host->vmm->writes.add(Host::data_of(i) + 0x2000, 1);
      host->vmm->toys[i]->binding.kick(QueueIndex{0});
    }
  }
  static uint64_t sector_of(uint16_t request) {
    return request * 7u % kSectors;
  }

  // Every disk does so many requests more.
  bool gets_on(uint16_t requests) {
    const std::vector<uint16_t> then = issued;
    return run_until([&] {
      for (size_t i = 0; i < kDisks; ++i) {
        if (issued[i] < then[i] + requests) return false;
      }
      return true;
    });
  }

  std::vector<uint16_t> issued = std::vector<uint16_t>(kDisks);
};

TEST_F(ModelMigration, AGuestThatReadsFromItsDisksMoves) {
  ASSERT_TRUE(gets_on(50));
  MigrationSource::Options options;
  options.bandwidth = 20 << 20;  // So that it takes some rounds.
  options.compare_ram = true;
  make_ends(options, MigrationDestination::Options());
  start_ends();
  expect_moved();
  // It goes on where it was, not from the beginning.
  EXPECT_TRUE(gets_on(50));
  const auto& providers = leaving->progress().providers;
  ASSERT_EQ(providers.size(), 2u);
  EXPECT_GT(providers[0].dirty, 0u) << "of " << providers[0].name;
}

TEST_F(ModelMigration, AGuestWhoseMigrationFailsReadsOn) {
  ASSERT_TRUE(gets_on(20));
  make_ends(MigrationSource::Options(), MigrationDestination::Options());
  destination->vmm->fail_load = absl::InternalError("planned");
  start_ends();
  expect_here();
  EXPECT_TRUE(gets_on(20));
}

}  // namespace
}  // namespace vhost
