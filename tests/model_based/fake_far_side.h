// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_FAKE_FAR_SIDE_H_
#define TESTS_MODEL_BASED_FAKE_FAR_SIDE_H_

#include <memory>
#include <string>

#include "tests/model_based/machine.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::model_based {

// A FakeVhostOps on a loop with a clock of its own.
class FakeFarSide final : public FarSide {
 public:
  // Requests are answered inside submit(), or by the loop.
  explicit FakeFarSide(testing::Completes completes) : completes_(completes) {}

  EventLoop& loop() override { return loop_; }
  VhostDev::Options options() const override;
  std::unique_ptr<VhostOps> connect() override;
  absl::Status drive(VhostDev& dev,
                     absl::FunctionRef<void(Completion)> start) override;
  void settle() override { loop_.run_ready(); }
  void disconnect(VhostDev& dev) override;
  void change_config(uint8_t value) override;
  bool signal(uint32_t vq) override;
  void will_stop_at(uint32_t vq, uint16_t base) override;
  std::string compare(const Reference& reference,
                      const AddressSpace& memory) override;
  std::string interrupt(std::unique_ptr<VhostDev>& dev, AddressSpace& memory,
                        absl::FunctionRef<void(Completion)> operation,
                        const Interrupted& how) override;

 private:
  std::string compare_memory(const AddressSpace& memory) const;

  const testing::Completes completes_;
  testing::ManualEventLoop loop_;
  testing::FakeVhostOps* ops_ = nullptr;
  uint8_t config_ = 0;
};

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_FAKE_FAR_SIDE_H_
