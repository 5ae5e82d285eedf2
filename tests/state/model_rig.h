// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_STATE_MODEL_RIG_H_
#define TESTS_STATE_MODEL_RIG_H_

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "vhostdev/device_state.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/fake_vmm.h"
#include "vhostdev/testing/memory_state.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/vhost_context.h"
#include "vhostdev/vhost_dev.h"
#include "vhostdev/vhost_user.h"

namespace vhost {

// A VMM's memory and loop.
struct StateVmm {
  StateVmm() {
    auto made = EpollEventLoop::create();
    EXPECT_TRUE(made.ok()) << made.status();
    loop = *std::move(made);
    context = std::make_unique<VhostContext>(*loop, memory);
    EXPECT_NE(testing::add_memory(memory, 0, 1 << 20), nullptr);
  }

  // Turns the loop until `over`, at most 30 s.
  template <typename Over>
  bool turn_until(Over over) {
    const auto give_up =
        std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!over() && std::chrono::steady_clock::now() < give_up) {
      EXPECT_TRUE(loop->run_once(std::chrono::milliseconds(20)).ok());
    }
    return over();
  }

  std::unique_ptr<EpollEventLoop> loop;
  AddressSpace memory;
  std::unique_ptr<VhostContext> context;
};

// A connected device of it, and a model back-end with a thread of its own at
// the other end of a socket.
class ModelRig {
 public:
  ModelRig(StateVmm& vmm, testing::ModelStateOptions state) : vmm_(vmm) {
    state.offered = true;
    disk_ = *testing::ModelBlk::on_memory(1 << 20);
    testing::ModelOptions options;
    options.queues = 1;
    options.state = std::move(state);
    model = std::make_unique<testing::ModelBackend>(disk_.get(),
                                                    std::move(options));
    std::array<int, 2> ends;
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
              0);
    EXPECT_TRUE(model->connect(UniqueFd(ends[1])).ok());
    EXPECT_TRUE(model->start_thread().ok());
    VhostDev::Options chosen;
    chosen.name = "disk";
    dev = std::make_unique<VhostDev>(
        *vmm.context,
        make_vhost_user_ops(
            UseSocket{std::make_shared<UniqueFd>(UniqueFd(ends[0]))}),
        guest_, binding_, events_, nullptr, chosen);
    const absl::Status status =
        run([this](Completion done) { dev->init(std::move(done)); });
    EXPECT_TRUE(status.ok()) << status;
  }

  // Does one operation by turning the loop.
  template <typename Operation>
  absl::Status run(Operation operation) {
    std::optional<absl::Status> out;
    operation([&out](absl::Status status) { out = std::move(status); });
    EXPECT_TRUE(vmm_.turn_until([&out] { return out.has_value(); }));
    return out.value_or(absl::UnknownError("not over"));
  }
  absl::Status save(StateSink& sink) {
    return run([&](Completion done) {
      dev->save_state(sink, limits, std::move(done));
    });
  }
  absl::Status load(StateSource& source) {
    return run([&](Completion done) {
      dev->load_state(source, limits, std::move(done));
    });
  }
  absl::Status start() {
    return run([this](Completion done) { dev->start(std::move(done)); });
  }
  testing::ModelStateReport report() const { return model->state_report(); }

  StateLimits limits = {.idle_timeout = std::chrono::seconds(5),
                        .check_timeout = std::chrono::seconds(5)};

 private:
  StateVmm& vmm_;
  std::unique_ptr<testing::ModelBlk> disk_;
  testing::FakeVirtioDevice guest_{{.queues = 1, .rings_gpa = 0x10000}};
  testing::FakeNotifierBinding binding_;
  testing::RecordingBackendEvents events_;

 public:
  // ORDER: of destruction.
  std::unique_ptr<testing::ModelBackend> model;
  std::unique_ptr<VhostDev> dev;
};

// Compares what a model saves with what it should, and keeps none of it.
class ComparingSink final : public StateSink {
 public:
  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override {
    std::string piece(std::min(available, kMaxStateChunk), '\0');
    const ssize_t got = ::read(pipe, piece.data(), piece.size());
    if (got <= 0) return absl::InternalError("read");
    piece.resize(static_cast<size_t>(got));
    if (piece != testing::model_state_bytes(bytes, piece.size())) same = false;
    bytes += piece.size();
    return piece.size();
  }
  void when_ready(absl::AnyInvocable<void()>) override {}
  absl::StatusOr<bool> end() override {
    ended = true;
    return true;
  }

  uint64_t bytes = 0;
  bool same = true;
  bool ended = false;
};

}  // namespace vhost

#endif  // TESTS_STATE_MODEL_RIG_H_
