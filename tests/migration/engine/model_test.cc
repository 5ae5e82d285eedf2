// SPDX-License-Identifier: Apache-2.0
// A guest that keeps disks of real vhost-user back-ends busy moves: what they
// write to its memory is known from the dirty log alone.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/migration/engine/model_host.h"
#include "tests/migration/engine/open_fds.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"

namespace vhost {
namespace {

constexpr size_t kDisks = 3;
constexpr uint64_t kSectors = 256;

class ModelMigration : public NoFdLeft {
 protected:
  ModelMigration() {
    loop = *EpollEventLoop::create();
    for (size_t i = 0; i < kDisks; ++i) {
      UniqueFd& disk = disks.emplace_back(::memfd_create("disk", MFD_CLOEXEC));
      std::vector<uint8_t> content(kSectors * 512);
      for (size_t b = 0; b < content.size(); ++b) {
        content[b] = static_cast<uint8_t>(b / 512 + i);
      }
      EXPECT_EQ(::write(disk.get(), content.data(), content.size()),
                static_cast<ssize_t>(content.size()));
    }
    source = std::make_unique<Host>(*loop, folder, "source", disks);
    destination = std::make_unique<Host>(*loop, folder, "destination", disks);
    source->vmm->bring_up();
    run_until([this] { return source->all_run(); });
  }

  // Every disk has one request under way, whoever runs the guest; each read
  // must bring what is on the disk.
  void work() {
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

  bool run_until(const std::function<bool()>& done) {
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done() && std::chrono::steady_clock::now() < end) {
      EXPECT_TRUE(loop->run_once(std::chrono::microseconds(100)).ok());
      work();
    }
    return done();
  }

  std::unique_ptr<EpollEventLoop> loop;
  Folder folder;
  std::vector<UniqueFd> disks;
  std::unique_ptr<Host> source;
  std::unique_ptr<Host> destination;
  std::vector<uint16_t> issued = std::vector<uint16_t>(kDisks);
};

TEST_F(ModelMigration, AGuestThatReadsFromItsDisksMoves) {
  ASSERT_TRUE(run_until([this] { return issued[0] > 50; }));
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  MigrationSource::Options options;
  options.bandwidth = 20 << 20;  // So that it takes some rounds.
  options.compare_ram = true;
  MigrationSource leaving(*loop, source->vmm->context, *source->vmm, options);
  MigrationDestination coming(*loop, destination->vmm->context,
                              *destination->vmm, {});
  std::optional<absl::Status> left;
  std::optional<absl::Status> came;
  coming.start(UniqueFd(fds[1]), [&](absl::Status s) { came = std::move(s); });
  leaving.start(UniqueFd(fds[0]), [&](absl::Status s) { left = std::move(s); });
  ASSERT_TRUE(run_until([&] { return left.has_value() && came.has_value(); }));
  ASSERT_TRUE(left->ok()) << *left;
  ASSERT_TRUE(came->ok()) << *came;
  EXPECT_TRUE(destination->vmm->running);
  EXPECT_TRUE(destination->all_run());
  // It goes on where it was, not from the beginning.
  const std::vector<uint16_t> then = issued;
  EXPECT_TRUE(run_until([&] {
    for (size_t i = 0; i < kDisks; ++i) {
      if (issued[i] < then[i] + 50) return false;
    }
    return true;
  }));
  const auto& providers = leaving.progress().providers;
  ASSERT_EQ(providers.size(), 2u);
  EXPECT_GT(providers[0].dirty, 0u) << "of " << providers[0].name;
}

TEST_F(ModelMigration, AGuestWhoseMigrationFailsReadsOn) {
  ASSERT_TRUE(run_until([this] { return issued[0] > 20; }));
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  MigrationSource leaving(*loop, source->vmm->context, *source->vmm, {});
  MigrationDestination coming(*loop, destination->vmm->context,
                              *destination->vmm, {});
  destination->vmm->fail_load = absl::InternalError("planned");
  std::optional<absl::Status> left;
  coming.start(UniqueFd(fds[1]), [](const absl::Status&) {});
  leaving.start(UniqueFd(fds[0]), [&](absl::Status s) { left = std::move(s); });
  ASSERT_TRUE(run_until([&] { return left.has_value(); }));
  EXPECT_FALSE(left->ok());
  EXPECT_EQ(leaving.progress().outcome, MigrationOutcome::kNotMoved);
  EXPECT_TRUE(source->vmm->running);
  const std::vector<uint16_t> then = issued;
  EXPECT_TRUE(run_until([&] {
    for (size_t i = 0; i < kDisks; ++i) {
      if (issued[i] < then[i] + 20) return false;
    }
    return true;
  }));
}

}  // namespace
}  // namespace vhost
