// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ASYNC_STOPPING_H_
#define TESTS_ASYNC_STOPPING_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "tests/async/far_side.h"
#include "tests/async/vmm.h"
#include "tests/peers/process.h"

namespace vhost::async {

// vhost-model-blk, which stops itself before one message of a connection.
class StoppingFar final : public FarSide {
 public:
  static constexpr uint64_t kNever = 1'000'000;
  static constexpr Duration kReplyTimeout = std::chrono::seconds(40);

  explicit StoppingFar(uint64_t stop_before) { restart(stop_before); }

  // A new one instead; the socket of the old one stays until it listens.
  void restart(uint64_t stop_before);
  // Kills it; its socket stays, and nobody listens there.
  void die() { process_.reset(); }
  bool stands_still() const {
    return process_ != nullptr && process_->frozen();
  }
  void go_on();

  std::unique_ptr<VhostOps> make_ops() override;
  uint32_t device_id() const override;
  uint32_t config_size() const override;
  void step() override;  // Leaves it the processor for a moment.
  bool connected() override { return process_ != nullptr; }
  void freeze() override { process_->freeze(); }

 private:
  std::string path() const { return dir_.file("disk.sock"); }

  testing::TempDir dir_;
  std::unique_ptr<testing::Process> process_;
};

// What is disturbed at each of its messages.
struct Act {
  const char* name;
  DeviceState from;
  void (*begin)(Vmm& vmm, Completion done);
  bool completes = true;  // A mask does not: nobody waits for it.
};
const std::vector<Act>& acts();
void PrintTo(const Act& act, std::ostream* out);

}  // namespace vhost::async

#endif  // TESTS_ASYNC_STOPPING_H_
