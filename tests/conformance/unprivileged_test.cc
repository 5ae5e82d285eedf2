// SPDX-License-Identifier: Apache-2.0
//
// Everything as an ordinary user: the uid "nobody" and 1024 descriptors for
// each process, front-end and back-ends alike.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_user.h"

namespace vhost {
namespace {

constexpr rlim_t kMostDescriptors = 1024;
constexpr uid_t kNobody = 65534;
constexpr auto kPatience = std::chrono::seconds(60);
constexpr uint32_t kSector = kBlkSectorSize;

// Gives up what a privileged process can do, for good.
absl::Status become_nobody() {
  const rlimit limit = {kMostDescriptors, kMostDescriptors};
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return errno_status(errno, "setrlimit");
  }
  if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 ||
                           ::setresgid(kNobody, kNobody, kNobody) != 0 ||
                           ::setresuid(kNobody, kNobody, kNobody) != 0)) {
    return errno_status(errno, "becoming nobody");
  }
  // A process that changed its user may not look at itself in /proc otherwise.
  ::prctl(PR_SET_DUMPABLE, 1);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  return ::geteuid() == 0 ? absl::InternalError("still root")
                          : absl::OkStatus();
}

// Open descriptors of this process.
size_t count_descriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  size_t count = 0;
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count - 3;  // ".", ".." and the folder itself.
}

// A process of nobody's that runs a function; it is killed when this goes.
class Child {
 public:
  explicit Child(absl::FunctionRef<absl::Status()> body) {
    std::array<int, 2> ends = {-1, -1};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) return;
    output_ = UniqueFd(ends[0]);
    UniqueFd input(ends[1]);
    pid_ = ::fork();
    if (pid_ != 0) return;
    output_.reset();
    absl::Status status = become_nobody();
    if (status.ok()) status = body();
    const std::string text = status.ToString();
    if (::write(input.get(), text.data(), text.size()) < 0) ::_exit(2);
    ::_exit(0);
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // How it ended.
  std::string result() {
    std::string text;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      pollfd ready = {output_.get(), POLLIN, 0};
      if (::poll(&ready, 1, 100) <= 0) continue;
      std::array<char, 512> piece;
      const ssize_t got = ::read(output_.get(), piece.data(), piece.size());
      if (got <= 0) return text;
      text.append(piece.data(), static_cast<size_t>(got));
    }
    return text + " (too slow)";
  }

 private:
  UniqueFd output_;
  pid_t pid_ = -1;
};

struct Pair {
  UniqueFd front;
  UniqueFd back;
};

Pair make_pair() {
  std::array<int, 2> ends = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return {};
  }
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// The back-ends' process: a disk for each socket, until all have hung up.
absl::Status serve(std::vector<UniqueFd> sockets, uint32_t queues) {
  struct Served {
    std::unique_ptr<testing::ModelBlk> disk;
    std::unique_ptr<testing::ModelBackend> backend;
  };
  std::vector<Served> all;
  testing::ModelBlkOptions disk_options;
  disk_options.queues = static_cast<uint16_t>(queues);
  testing::ModelOptions options;
  options.queues = queues;
  for (UniqueFd& socket : sockets) {
    auto disk = testing::ModelBlk::on_memory(1 << 20, disk_options);
    if (!disk.ok()) return disk.status();
    Served served{*std::move(disk), nullptr};
    served.backend =
        std::make_unique<testing::ModelBackend>(served.disk.get(), options);
    VHOST_RETURN_IF_ERROR(served.backend->connect(std::move(socket)));
    VHOST_RETURN_IF_ERROR(served.backend->start_thread());
    all.push_back(std::move(served));
  }
  for (;;) ::pause();  // The parent kills it.
}

// The front-end's process.
class FrontEnd {
 public:
  explicit FrontEnd(uint32_t queues)
      : queues_(queues), loop_(EpollEventLoop::create().value()) {}

  absl::Status run(std::vector<UniqueFd> sockets) {
    for (UniqueFd& socket : sockets) add(std::move(socket));
    VHOST_RETURN_IF_ERROR(annotate(all([](Disk& disk, Completion done) {
                                     disk.driver->reset(kBlkWantedFeatures,
                                                        std::move(done));
                                   }),
                                   "reset"));
    VirtioDriver::StartOptions start;
    start.queues = queues_;
    VHOST_RETURN_IF_ERROR(annotate(all([start](Disk& disk, Completion done) {
                                     disk.driver->start(start, std::move(done));
                                   }),
                                   "start"));
    VHOST_RETURN_IF_ERROR(annotate(make_clients(), "client"));
    descriptors_ = count_descriptors();
    VHOST_RETURN_IF_ERROR(annotate(transfer(BlkOp::kWrite), "write"));
    VHOST_RETURN_IF_ERROR(annotate(transfer(BlkOp::kRead), "read"));
    return stop();
  }

  // Open while all devices ran.
  size_t descriptors() const { return descriptors_; }

 private:
  struct Disk {
    std::unique_ptr<VirtioDriver> driver;
    std::unique_ptr<BlkClient> client;
    DmaBuffer data;  // A sector for each queue.
    absl::Status result;
  };

  void add(UniqueFd socket) {
    VirtioDriver::Options options;
    options.name = absl::StrCat("disk", disks_.size());
    options.device_id = kDeviceIdBlock;
    options.max_queues = queues_;
    options.config_size = kBlkConfigSize;
    options.own_loop = loop_.get();
    auto shared = std::make_shared<UniqueFd>(std::move(socket));
    Disk disk;
    disk.driver = std::make_unique<VirtioDriver>(
        context_, dma_, make_vhost_user_ops(UseSocket{std::move(shared)}),
        std::move(options));
    disks_.push_back(std::move(disk));
  }

  // Begins an operation of all disks at once, and turns the loop until all are
  // over.
  absl::Status all(absl::FunctionRef<void(Disk&, Completion)> begin) {
    size_t left = disks_.size();
    for (Disk& disk : disks_) {
      begin(disk, [&disk, &left](absl::Status status) {
        disk.result = std::move(status);
        --left;
      });
    }
    while (left != 0) {
      VHOST_RETURN_IF_ERROR(loop_->run_once(std::chrono::seconds(1)));
    }
    for (const Disk& disk : disks_) VHOST_RETURN_IF_ERROR(disk.result);
    return absl::OkStatus();
  }

  absl::Status make_clients() {
    BlkClient::Options options;
    options.wait_mode = BlkClient::WaitMode::kSleep;
    for (Disk& disk : disks_) {
      auto data = dma_.allocate(uint64_t{kSector} * queues_);
      if (!data.ok()) return data.status();
      auto client = BlkClient::create(*disk.driver, options);
      if (!client.ok()) return client.status();
      if ((*client)->queue_count() != queues_) {
        return absl::InternalError(
            absl::StrCat((*client)->queue_count(), " queues"));
      }
      disk.data = *std::move(data);
      disk.client = *std::move(client);
    }
    return absl::OkStatus();
  }

  // A sector through every queue of every disk, all in flight at once.
  absl::Status transfer(BlkOp op) {
    for (size_t i = 0; i < disks_.size(); ++i) {
      Disk& disk = disks_[i];
      for (uint32_t queue = 0; queue < queues_; ++queue) {
        const DmaSpan span =
            disk.data.span().subspan(uint64_t{kSector} * queue, kSector);
        std::memset(span.data, op == BlkOp::kWrite ? pattern(i, queue) : 0,
                    kSector);
        BlkRequest request;
        request.op = op;
        request.offset = uint64_t{kSector} * queue;
        request.buffers = std::span(&span, 1);
        VHOST_RETURN_IF_ERROR(disk.client->submit(request, queue));
      }
      VHOST_RETURN_IF_ERROR(disk.client->kick());
    }
    for (size_t i = 0; i < disks_.size(); ++i) {
      VHOST_RETURN_IF_ERROR(finish(i));
    }
    return absl::OkStatus();
  }

  absl::Status finish(size_t i) {
    Disk& disk = disks_[i];
    std::array<BlkCompletion, 32> done;
    while (disk.client->in_flight() != 0) {
      const size_t count = disk.client->wait(done);
      if (count == 0) return disk.client->status();
      for (size_t k = 0; k < count; ++k) {
        VHOST_RETURN_IF_ERROR(done[k].status);
      }
    }
    for (uint32_t queue = 0; queue < queues_; ++queue) {
      const std::byte* const data = disk.data.data() + size_t{kSector} * queue;
      const auto expected = static_cast<std::byte>(pattern(i, queue));
      if (!std::all_of(data, data + kSector,
                       [&](std::byte b) { return b == expected; })) {
        return absl::DataLossError(absl::StrCat("disk ", i, " vq ", queue));
      }
    }
    return absl::OkStatus();
  }

  absl::Status stop() {
    for (Disk& disk : disks_) disk.client.reset();
    VHOST_RETURN_IF_ERROR(
        annotate(all([](Disk& disk, Completion done) {
                   disk.driver->stop(VirtioDriver::StopMode::kDrain,
                                     std::chrono::seconds(5), std::move(done));
                 }),
                 "stop"));
    return absl::OkStatus();
  }

  static uint8_t pattern(size_t disk, uint32_t queue) {
    return static_cast<uint8_t>(1 + (disk * 7 + queue) % 255);
  }

  const uint32_t queues_;
  std::unique_ptr<EpollEventLoop> loop_;
  AddressSpace memory_;
  VhostContext context_{*loop_, memory_};
  DmaMemory dma_{context_, memory_};
  std::vector<Disk> disks_;
  size_t descriptors_ = 0;
};

// Runs `devices` disks with `queues` queues, and counts descriptors; at most
// `most` may be open at once.
std::string run_all(size_t devices, size_t devices_per_backend, uint32_t queues,
                    size_t most) {
  std::vector<std::unique_ptr<Child>> backends;
  std::vector<UniqueFd> fronts;
  while (fronts.size() < devices) {
    std::vector<UniqueFd> backs;
    for (size_t i = 0; i < devices_per_backend; ++i) {
      Pair pair = make_pair();
      fronts.push_back(std::move(pair.front));
      backs.push_back(std::move(pair.back));
    }
    backends.push_back(std::make_unique<Child>([&] {
      fronts.clear();  // The front-end's, not this process's.
      return serve(std::move(backs), queues);
    }));
  }
  Child front_end([&]() -> absl::Status {
    const size_t before = count_descriptors() - fronts.size();
    size_t during = 0;
    {
      FrontEnd disks(queues);
      VHOST_RETURN_IF_ERROR(disks.run(std::move(fronts)));
      during = disks.descriptors();
    }
    const size_t after = count_descriptors();
    if (before != after) {
      return absl::InternalError(
          absl::StrCat(before, " descriptors before, ", after, " afterwards"));
    }
    if (during - before > most || during - before < devices * queues * 2) {
      return absl::InternalError(absl::StrCat(
          during - before, " descriptors, expected at most ", most));
    }
    std::printf("%zu descriptors\n", during - before);
    std::fflush(stdout);
    return absl::OkStatus();
  });
  return front_end.result();
}

// A kick and a call notifier for each queue; a device's socket, its channel,
// its error notifier and its inflight area; and a handful for the process.
constexpr size_t expected_descriptors(size_t devices, size_t queues) {
  return devices * (2 * queues + 4) + 8;
}

TEST(Unprivileged, DrivesADeviceOf256Queues) {
  EXPECT_EQ(run_all(1, 1, 256, expected_descriptors(1, 256)), "OK");
}

TEST(Unprivileged, Drives64DevicesOf4QueuesAtOnce) {
  EXPECT_EQ(run_all(64, 16, 4, expected_descriptors(64, 4)), "OK");
}

}  // namespace
}  // namespace vhost
