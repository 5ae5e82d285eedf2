// SPDX-License-Identifier: Apache-2.0
//
// The life of a disk in each of the ways to embed the library, for
// system_calls.py to watch.  Each phase begins by naming the thread after it.
//
//   system_call_modes polling|notifiers|epoll|glib SOCKET
#include <sys/prctl.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_user.h"
#include "vhostdev/virtio_driver.h"

#ifdef VHOSTDEV_TEST_GLIB
#include <glib.h>

#include "vhostdev/glib_event_loop.h"
#endif

namespace vhost {
namespace {

constexpr uint32_t kQueues = 2;
constexpr uint32_t kDepth = 16;
constexpr auto kPatience = std::chrono::seconds(10);

void phase(const char* name) { ::prctl(PR_SET_NAME, name); }

VirtioDriver::Options driver_options() {
  VirtioDriver::Options options;
  options.device_id = kDeviceIdBlock;
  options.max_queues = kQueues;
  options.config_size = kBlkConfigSize;
  return options;
}

VirtioDriver::StartOptions start_options() {
  VirtioDriver::StartOptions options;
  options.queues = kQueues;
  return options;
}

// A program that waits: every call returns when its work is done.
class Blocking {
 public:
  Blocking(const std::string& socket, bool polling) : polling_(polling) {
    VirtioDriver::Options options = driver_options();
    options.own_loop = loop_.get();
    options.backend_polls = polling;
    options.no_call_notifiers = polling;
    driver_ = std::make_unique<VirtioDriver>(
        context_, dma_, make_vhost_user_ops(ConnectTo{socket}), options);
  }

  absl::Status connect() { return driver_->reset(kBlkWantedFeatures).status(); }

  absl::Status start() {
    VHOST_RETURN_IF_ERROR(driver_->start(start_options()).status());
    BlkClient::Options options;
    options.wait_mode =
        polling_ ? BlkClient::WaitMode::kPoll : BlkClient::WaitMode::kSleep;
    auto client = BlkClient::create(*driver_, options);
    if (!client.ok()) return client.status();
    client_ = *std::move(client);
    auto data = dma_.allocate(uint64_t{kBlkSectorSize} * kDepth);
    if (data.ok()) data_ = *std::move(data);
    return data.status();
  }

  // A batch on every queue.
  absl::Status transfer() {
    for (uint32_t i = 0; i < kDepth; ++i) {
      const DmaSpan span =
          data_.span().subspan(uint64_t{kBlkSectorSize} * i, kBlkSectorSize);
      BlkRequest request;
      request.op = i % 2 == 0 ? BlkOp::kRead : BlkOp::kWrite;
      request.offset = uint64_t{kBlkSectorSize} * i;
      request.buffers = std::span(&span, 1);
      VHOST_RETURN_IF_ERROR(client_->submit(request));
    }
    VHOST_RETURN_IF_ERROR(client_->kick());
    std::array<BlkCompletion, kDepth> done;
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (client_->in_flight() != 0) {
      const size_t count = polling_ ? client_->poll(done) : client_->wait(done);
      for (size_t i = 0; i < count; ++i) {
        VHOST_RETURN_IF_ERROR(done[i].status);
      }
      if (std::chrono::steady_clock::now() > deadline) {
        return absl::DeadlineExceededError("transfer");
      }
    }
    return absl::OkStatus();
  }

  absl::Status stop() {
    client_.reset();
    return driver_->stop(VirtioDriver::StopMode::kDrain, kPatience).status();
  }

 private:
  const bool polling_;
  std::unique_ptr<EpollEventLoop> loop_ = EpollEventLoop::create().value();
  AddressSpace memory_;
  VhostContext context_{*loop_, memory_};
  DmaMemory dma_{context_, memory_};
  std::unique_ptr<VirtioDriver> driver_;
  DmaBuffer data_;
  std::unique_ptr<BlkClient> client_;
};

// A program that never waits but in its loop: a VMM.
class Looping {
 public:
  // `turn` waits for something to do and does it.
  Looping(const std::string& socket, std::unique_ptr<EventLoop> loop,
          absl::AnyInvocable<void()> turn)
      : loop_(std::move(loop)), turn_(std::move(turn)) {
    driver_ = std::make_unique<VirtioDriver>(
        context_, dma_, make_vhost_user_ops(ConnectTo{socket}),
        driver_options());
  }

  absl::Status connect() {
    return finish([&](Completion done) {
      driver_->reset(kBlkWantedFeatures, std::move(done));
    });
  }

  absl::Status start() {
    VHOST_RETURN_IF_ERROR(finish([&](Completion done) {
      driver_->start(start_options(), std::move(done));
    }));
    auto queue = driver_->acquire(QueueIndex{0});
    if (!queue.ok()) return queue.status();
    queue_ = *std::move(queue);
    watch_ = loop_->watch(queue_.call_fd(), {.readable = true},
                          [this](IoEvents) { queue_.take_signal(); });
    auto data = dma_.allocate(kHeader + kBlkSectorSize + 1);
    if (data.ok()) data_ = *std::move(data);
    return data.status();
  }

  // One read, from kick to call.
  absl::Status transfer() {
    std::memset(data_.data(), 0, kHeader);  // Read; sector 0.
    auto request = queue_.ring().begin(3, 0);
    if (!request.ok()) return request.status();
    const uint64_t at = data_.gpa();
    VHOST_RETURN_IF_ERROR(request.add_readable(at, kHeader));
    VHOST_RETURN_IF_ERROR(request.add_writable(at + kHeader, kBlkSectorSize));
    VHOST_RETURN_IF_ERROR(
        request.add_writable(at + kHeader + kBlkSectorSize, 1));
    VHOST_RETURN_IF_ERROR(request.submit());
    // Before the kick: however fast the back-end is, it calls.
    bool waits = queue_.ring().enable_interrupts();
    VHOST_RETURN_IF_ERROR(queue_.kick());
    for (; waits; waits = queue_.ring().enable_interrupts()) turn_();
    std::array<RingCompletion, 1> done;
    return queue_.ring().poll(done).status();
  }

  absl::Status stop() {
    watch_.reset();
    return finish([&](Completion done) {
      driver_->stop(VirtioDriver::StopMode::kDrain, kPatience, std::move(done));
    });
  }

 private:
  static constexpr uint32_t kHeader = 16;

  absl::Status finish(absl::FunctionRef<void(Completion)> begin) {
    std::optional<absl::Status> result;
    begin([&result](absl::Status status) { result = std::move(status); });
    while (!result) turn_();
    return *result;
  }

  std::unique_ptr<EventLoop> loop_;
  absl::AnyInvocable<void()> turn_;
  AddressSpace memory_;
  VhostContext context_{*loop_, memory_};
  DmaMemory dma_{context_, memory_};
  std::unique_ptr<VirtioDriver> driver_;
  DmaBuffer data_;
  QueueHandle queue_;
  std::unique_ptr<EventLoop::Watch> watch_;
};

// `transfers`: of the phase "io".
template <typename Program>
absl::Status live(absl::FunctionRef<std::unique_ptr<Program>()> make,
                  int transfers) {
  phase("connect");
  std::unique_ptr<Program> program = make();
  VHOST_RETURN_IF_ERROR(annotate(program->connect(), "connect"));
  phase("start");
  VHOST_RETURN_IF_ERROR(annotate(program->start(), "start"));
  phase("io");
  for (int i = 0; i < transfers; ++i) {
    VHOST_RETURN_IF_ERROR(annotate(program->transfer(), "transfer"));
  }
  phase("stop");
  VHOST_RETURN_IF_ERROR(annotate(program->stop(), "stop"));
  phase("destroy");
  program.reset();
  phase("end");
  return absl::OkStatus();
}

std::unique_ptr<Looping> over_epoll(const std::string& socket) {
  auto loop = EpollEventLoop::create().value();
  EpollEventLoop& borrowed = *loop;
  return std::make_unique<Looping>(socket, std::move(loop), [&borrowed] {
    borrowed.run_once(std::chrono::seconds(1)).IgnoreError();
  });
}

#ifdef VHOSTDEV_TEST_GLIB
std::unique_ptr<Looping> over_glib(const std::string& socket) {
  return std::make_unique<Looping>(socket, make_glib_event_loop(nullptr), [] {
    g_main_context_iteration(nullptr, TRUE);
  });
}
#endif

absl::Status run(absl::string_view mode, const std::string& socket) {
  if (mode == "polling" || mode == "notifiers") {
    const bool polling = mode == "polling";
    return live<Blocking>(
        [&] { return std::make_unique<Blocking>(socket, polling); },
        polling ? 1000 : 100);
  }
  if (mode == "epoll") {
    return live<Looping>([&] { return over_epoll(socket); }, 100);
  }
#ifdef VHOSTDEV_TEST_GLIB
  if (mode == "glib") {
    return live<Looping>([&] { return over_glib(socket); }, 100);
  }
#endif
  return absl::InvalidArgumentError("no such mode");
}

}  // namespace
}  // namespace vhost

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const absl::Status status = vhost::run(argv[1], argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
