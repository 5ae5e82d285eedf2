// SPDX-License-Identifier: Apache-2.0
// Requests that a back-end leaves in its inflight area, instead of finishing
// them before it stops, are finished by the back-end at the other end: each
// once, and none is lost.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/migration/engine/model_host.h"
#include "tests/migration/engine/open_fds.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"

namespace vhost {
namespace {

constexpr auto kLongTime = std::chrono::seconds(20);

class Inflight : public NoFdLeft {
 protected:
  Inflight() {
    loop = *EpollEventLoop::create();
    for (int i = 0; i < 2; ++i) {
      UniqueFd& disk = disks_.emplace_back(::memfd_create("disk", MFD_CLOEXEC));
      const std::vector<uint8_t> content(1 << 20, 0x5a);
      EXPECT_EQ(::write(disk.get(), content.data(), content.size()),
                static_cast<ssize_t>(content.size()));
    }
    source = host("source", kLongTime);
    destination = host("destination", std::chrono::milliseconds(1));
    source->vmm->bring_up();
    EXPECT_TRUE(run_until([this] { return source->all_run(); }));
  }

  bool run_until(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + kLongTime;
    while (!done() && std::chrono::steady_clock::now() < end) {
      EXPECT_TRUE(loop->run_once(std::chrono::milliseconds(1)).ok());
    }
    return done();
  }
  // The guest asks its disk for something, and does not get it.
  void ask(size_t i) {
    testing::BlockRing ring = source->ring(i);
    ring.read(3);
    source->vmm->toys[i]->binding.kick(QueueIndex{0});
    ASSERT_TRUE(run_until(
        [this, i] { return source->backends[i]->ring(0).in_flight == 1; }));
  }
  void migrate() {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    MigrationSource::Options options;
    options.compare_ram = true;
    leaving = std::make_unique<MigrationSource>(*loop, source->vmm->context,
                                                *source->vmm, options);
    coming = std::make_unique<MigrationDestination>(
        *loop, destination->vmm->context, *destination->vmm,
        MigrationDestination::Options{});
    std::optional<absl::Status> left;
    std::optional<absl::Status> came;
    coming->start(UniqueFd(fds[1]),
                  [&came](absl::Status s) { came = std::move(s); });
    leaving->start(UniqueFd(fds[0]),
                   [&left](absl::Status s) { left = std::move(s); });
    ASSERT_TRUE(
        run_until([&] { return left.has_value() && came.has_value(); }));
    EXPECT_TRUE(left->ok()) << *left;
    EXPECT_TRUE(came->ok()) << *came;
    EXPECT_EQ(leaving->progress().outcome, MigrationOutcome::kMoved);
  }

  std::unique_ptr<EpollEventLoop> loop;
  Folder folder;
  std::unique_ptr<Host> source;
  std::unique_ptr<Host> destination;
  std::unique_ptr<MigrationSource> leaving;
  std::unique_ptr<MigrationDestination> coming;

 private:
  std::unique_ptr<Host> host(absl::string_view name,
                             std::chrono::nanoseconds latency) {
    return std::make_unique<Host>(
        *loop, folder, name, disks_,
        [latency](size_t) {
          testing::ModelOptions options;
          options.latency = latency;
          options.vring_base_inflight = true;
          return options;
        },
        /*track_inflight=*/true,
        VhostUserOptions{.extra_protocol_features =
                             uint64_t{1} << kProtocolGetVringBaseInflight});
  }

  std::vector<UniqueFd> disks_;
};

TEST_F(Inflight, ARequestIsFinishedAtTheOtherEnd) {
  ask(0);
  migrate();
  // Long before its first back-end would have.
  EXPECT_LT(leaving->progress().downtime, kLongTime / 2);
  testing::BlockRing ring = destination->ring(0);
  ASSERT_TRUE(run_until([&ring] { return ring.used_index() == 1; }));
  EXPECT_EQ(ring.status(), 0);
  EXPECT_EQ(std::to_integer<int>(*ring.data()), 0x5a);
  EXPECT_EQ(destination->backends[0]->counters().resubmitted, 1u);
  EXPECT_EQ(destination->backends[1]->counters().resubmitted, 0u);
  // Once.
  EXPECT_EQ(destination->backends[0]->counters().requests, 1u);
  EXPECT_EQ(source->backends[0]->counters().requests, 0u);
}

TEST_F(Inflight, NothingInFlightMovesToo) {
  migrate();
  testing::BlockRing ring = destination->ring(1);
  ring.read(3);
  destination->vmm->toys[1]->binding.kick(QueueIndex{0});
  ASSERT_TRUE(run_until([&ring] { return ring.used_index() == 1; }));
  EXPECT_EQ(ring.status(), 0);
  EXPECT_EQ(destination->backends[1]->counters().resubmitted, 0u);
}

}  // namespace
}  // namespace vhost
