// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_ENGINE_MODEL_HOST_H_
#define TESTS_MIGRATION_ENGINE_MODEL_HOST_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fakes/block_ring.h"
#include "tests/migration/engine/open_fds.h"
#include "tests/migration/engine/toy_vmm.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost {

// A folder of its own for the sockets.
class Folder {
 public:
  Folder() { EXPECT_NE(::mkdtemp(name_), nullptr); }
  ~Folder() { ::rmdir(name_); }
  std::string operator/(absl::string_view file) const {
    return absl::StrCat(name_, "/", file);
  }

 private:
  char name_[32] = "/tmp/vhostdev-move-XXXXXX";
};

// One host: back-ends on threads of their own, over disks that both hosts
// share, and a VMM.
class Host {
 public:
  using Options = std::function<testing::ModelOptions(size_t)>;

  // `options` of the back-end of each disk; none: a disk of 300 us.
  Host(EventLoop& loop, const Folder& folder, absl::string_view name,
       const std::vector<UniqueFd>& disks, const Options& options = nullptr,
       bool track_inflight = false, const VhostUserOptions& user_options = {}) {
    std::vector<std::string> paths;
    for (size_t i = 0; i < disks.size(); ++i) {
      auto blk = testing::ModelBlk::on_file(
          UniqueFd(::fcntl(disks[i].get(), F_DUPFD_CLOEXEC, 0)));
      EXPECT_TRUE(blk.ok()) << blk.status();
      blks_.push_back(*std::move(blk));
      testing::ModelOptions chosen;
      chosen.latency = std::chrono::microseconds(300);
      if (options != nullptr) chosen = options(i);
      backends.push_back(
          std::make_unique<testing::ModelBackend>(blks_.back().get(), chosen));
      paths.push_back(folder / absl::StrCat(name, i));
      EXPECT_TRUE(backends.back()->listen_on(paths.back()).ok());
      EXPECT_TRUE(backends.back()->start_thread().ok());
    }
    vmm = std::make_unique<ToyVmm>(
        loop, disks.size(),
        [paths, user_options](size_t i) {
          return make_vhost_user_ops(ConnectTo{paths[i]}, user_options);
        },
        track_inflight);
  }

  // The driver of a disk: on the rings of device `i`, in this host's memory.
  testing::BlockRing ring(size_t i) {
    const VirtqueueConfig queue = vmm->toys[i]->guest.queue(QueueIndex{0});
    const auto at = [this](uint64_t gpa) {
      return vmm->memory.translate(gpa, 4096);
    };
    const uint64_t data = data_of(i);
    return testing::BlockRing({.desc = at(queue.desc_gpa),
                               .avail = at(queue.avail_gpa),
                               .used = at(queue.used_gpa),
                               .num = queue.num,
                               .data = at(data),
                               .data_gpa = data});
  }
  static uint64_t data_of(size_t i) { return (2 << 20) + (i << 16); }

  bool all_run() const {
    for (const auto& toy : vmm->toys) {
      if (toy->dev().state() != DeviceState::kRunning) return false;
    }
    return true;
  }

 private:
  std::vector<std::unique_ptr<testing::ModelBlk>> blks_;

 public:
  std::vector<std::unique_ptr<testing::ModelBackend>> backends;
  std::unique_ptr<ToyVmm> vmm;
};

// Two hosts that share their disks, on one loop, and a guest that moves.
class TwoHosts : public NoFdLeft {
 protected:
  TwoHosts() { loop = *EpollEventLoop::create(); }

  void add_disk(const std::string& content) {
    UniqueFd& disk = disks.emplace_back(::memfd_create("disk", MFD_CLOEXEC));
    ASSERT_EQ(::write(disk.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }
  // The guest runs at the source.
  void bring_up() {
    source->vmm->bring_up();
    ASSERT_TRUE(run_until([this] { return source->all_run(); }));
  }

  // Called in each turn: the guest at work.
  virtual void work() {}
  // False: it is not, within 30 s.
  bool run_until(const std::function<bool()>& done) {
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done() && std::chrono::steady_clock::now() < end) {
      EXPECT_TRUE(loop->run_once(std::chrono::microseconds(100)).ok());
      work();
    }
    return done();
  }

  void make_ends(const MigrationSource::Options& out,
                 const MigrationDestination::Options& in) {
    leaving = std::make_unique<MigrationSource>(*loop, source->vmm->context,
                                                *source->vmm, out);
    coming = std::make_unique<MigrationDestination>(
        *loop, destination->vmm->context, *destination->vmm, in);
  }
  // Begins; see is_over().
  void start_ends() {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    coming->start(UniqueFd(fds[1]), keep(came));
    leaving->start(UniqueFd(fds[0]), keep(left));
  }
  bool is_over() const { return left.has_value() && came.has_value(); }
  static Completion keep(std::optional<absl::Status>& status) {
    return [&status](absl::Status s) { status = std::move(s); };
  }

  void expect_moved() {
    ASSERT_TRUE(run_until([this] { return is_over(); }));
    EXPECT_TRUE(left->ok()) << *left;
    EXPECT_TRUE(came->ok()) << *came;
    EXPECT_TRUE(destination->vmm->running);
    EXPECT_TRUE(destination->all_run());
    EXPECT_FALSE(source->vmm->running);
  }
  void expect_here() {
    ASSERT_TRUE(run_until([this] { return is_over(); }));
    EXPECT_FALSE(left->ok());
    EXPECT_EQ(leaving->progress().outcome, MigrationOutcome::kNotMoved);
    EXPECT_EQ(coming->progress().outcome, MigrationOutcome::kNotMoved);
    EXPECT_TRUE(source->vmm->running);
    EXPECT_FALSE(destination->vmm->running);
    // Where a back-end was lost, its device runs again with the next one.
    EXPECT_TRUE(run_until([this] { return source->all_run(); })) << *left;
  }

  std::unique_ptr<EpollEventLoop> loop;
  Folder folder;
  std::vector<UniqueFd> disks;
  std::unique_ptr<Host> source;
  std::unique_ptr<Host> destination;
  std::unique_ptr<MigrationSource> leaving;
  std::unique_ptr<MigrationDestination> coming;
  std::optional<absl::Status> left;
  std::optional<absl::Status> came;
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_ENGINE_MODEL_HOST_H_
