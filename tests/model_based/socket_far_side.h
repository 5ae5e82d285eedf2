// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MODEL_BASED_SOCKET_FAR_SIDE_H_
#define TESTS_MODEL_BASED_SOCKET_FAR_SIDE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/model_based/machine.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_device.h"

namespace vhost::model_based {

// A device with one byte of configuration that answers every request.
class ByteDevice final : public testing::ModelDevice {
 public:
  uint32_t device_id() const override { return kDeviceIdBlock; }
  FeatureSet features() const override { return {}; }
  void accept_features(FeatureSet) override {}
  std::vector<std::byte> config() const override {
    return {static_cast<std::byte>(byte_.load())};
  }
  absl::Status write_config(uint32_t, std::span<const std::byte> bytes,
                            bool) override {
    byte_ = static_cast<uint8_t>(bytes[0]);
    return absl::OkStatus();
  }
  absl::StatusOr<uint32_t> handle(const testing::ModelRequest&) override {
    return 1;
  }
  void reset() override {}

  void set(uint8_t value) { byte_ = value; }

 private:
  std::atomic<uint8_t> byte_ = 0;
};

// The model back-end behind a socket, on a thread of its own.
class SocketFarSide final : public FarSide {
 public:
  SocketFarSide();

  EventLoop& loop() override { return *loop_; }
  VhostDev::Options options() const override;
  std::unique_ptr<VhostOps> connect() override;
  absl::Status drive(VhostDev& dev,
                     absl::FunctionRef<void(Completion)> start) override;
  void settle() override;
  void disconnect(VhostDev& dev) override;
  void change_config(uint8_t value) override;
  bool signal(uint32_t) override { return false; }
  void will_stop_at(uint32_t, uint16_t) override {}
  bool serves_rings() const override { return true; }
  bool request(AddressSpace& memory, testing::FakeNotifierBinding& binding,
               QueueIndex vq, const VirtqueueConfig& ring,
               uint16_t index) override;
  std::string compare(const Reference& reference,
                      const AddressSpace& memory) override;
  std::string interrupt(std::unique_ptr<VhostDev>& dev, AddressSpace& memory,
                        absl::FunctionRef<void(Completion)> operation,
                        const Interrupted& how) override;

 private:
  // Turns the loop until `condition`; false if that takes too long.
  bool turn_until(const std::function<bool()>& condition);

  std::unique_ptr<EpollEventLoop> loop_;
  std::string path_;
  ByteDevice device_;
  // What the back-end does to the messages that come.
  std::atomic<testing::ModelVerdict::Kind> verdict_ =
      testing::ModelVerdict::Kind::kObey;
  std::unique_ptr<testing::ModelBackend> model_;
};

}  // namespace vhost::model_based

#endif  // TESTS_MODEL_BASED_SOCKET_FAR_SIDE_H_
