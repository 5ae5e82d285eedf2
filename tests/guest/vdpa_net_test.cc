// SPDX-License-Identifier: Apache-2.0
// The kernel's simulated vDPA network device, through our driver.  It answers
// frames to its own address or to all with themselves, and no others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/guest/vdpa_guest.h"
#include "vhostdev/net_client.h"

namespace vhost::testing {
namespace {

constexpr Duration kPatience = std::chrono::seconds(5);
constexpr unsigned kCtrlMacAddress = 23;  // VIRTIO_NET_F_CTRL_MAC_ADDR
constexpr QueueIndex kControl{2};
constexpr uint32_t kControlGroup = 1;

std::vector<std::byte> frame_to(const MacAddress& mac, uint8_t mark) {
  std::vector<std::byte> frame(64, std::byte{mark});
  std::memcpy(frame.data(), mac.data(), mac.size());
  return frame;
}

class VdpaNet : public VdpaGuest {
 protected:
  std::unique_ptr<VirtioDriver> make_net(VhostVdpaOptions options,
                                         uint32_t queues) {
    return make_driver(std::move(options), {.name = "net",
                                            .device_id = kDeviceIdNet,
                                            .max_queues = queues,
                                            .config_size = kNetConfigSize});
  }
  static std::unique_ptr<NetClient> make_client(VirtioDriver& driver) {
    auto client =
        NetClient::create(driver, {.wait_mode = NetClient::WaitMode::kSleep,
                                   .send_depth = 16,
                                   .buffers = 32});
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  static MacAddress mac_of(VirtioDriver& driver) {
    std::vector<std::byte> bytes(kNetConfigSize);
    EXPECT_EQ(driver.read_config(0, bytes), absl::OkStatus());
    return decode_net_config(driver.negotiated().features, bytes)->mac;
  }
  // Sends one frame and waits for the next that arrives.
  static std::vector<std::byte> echo(NetClient& client,
                                     const std::vector<std::byte>& frame) {
    EXPECT_EQ(client.send(frame, 1), absl::OkStatus());
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    std::array<NetFrame, 1> arrived;
    std::array<NetSent, 1> sent;
    while (std::chrono::steady_clock::now() < deadline) {
      if (!client.wait(kPatience)) break;
      client.poll_sent(sent);
      if (client.receive(arrived) == 1) return arrived[0].bytes;
    }
    return {};
  }

  MemoryLockLimit limit_{RLIM_INFINITY};
};

TEST_F(VdpaNet, SaysWhatItIs) {
  const auto info = read_vhost_vdpa_info(OpenVdpaDevice{kVdpaNet});
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->device_id, kDeviceIdNet);
  EXPECT_EQ(info->queues, 3u);
  EXPECT_EQ(info->groups, 2u);
  EXPECT_EQ(info->address_spaces, 2u);
  EXPECT_EQ(info->queue_groups, (std::vector<uint32_t>{0, 0, 1}));
}

TEST_F(VdpaNet, EchoesFramesToItsOwnAddress) {
  const auto driver = make_net(vdpa(kVdpaNet), 2);
  ASSERT_TRUE(driver->reset(kNetWantedFeatures).ok());
  ASSERT_TRUE(driver->start({.queues = 2}).ok());
  const auto client = make_client(*driver);
  ASSERT_NE(client, nullptr);
  const MacAddress mac = mac_of(*driver);
  for (uint8_t i = 1; i < 100; ++i) {
    const auto frame = frame_to(mac, i);
    ASSERT_EQ(echo(*client, frame), frame) << i;
  }
  EXPECT_TRUE(
      driver->stop(VirtioDriver::StopMode::kCancel, kPatience)->status.ok());
}

// One command through the control queue, which is the second group's.
TEST_F(VdpaNet, ItsControlQueueWorksInAnAddressSpaceOfItsOwn) {
  VhostVdpaOptions options = vdpa(kVdpaNet);
  options.group_address_spaces = {{.group = kControlGroup, .address_space = 1}};
  const uint64_t before = pinned_bytes();
  auto driver = make_net(std::move(options), 3);
  FeatureSet wanted = kNetWantedFeatures;
  ASSERT_TRUE(driver->reset(wanted.set(kCtrlMacAddress)).ok());
  ASSERT_TRUE(driver->start({.queues = 3}).ok());
  uint64_t mapped = 0;
  for (const MemorySection& section : memory_.sections()) {
    mapped += section.size;
  }
  EXPECT_EQ(pinned_bytes() - before, 2 * mapped);  // Once in each.

  // Source: VIRTIO 1.3, "Setting MAC Address Filtering": class 1, command 1.
  const MacAddress mac = {0x02, 0, 0, 0, 0, 0x42};
  constexpr uint32_t kHeader = 2;
  const DmaBuffer buffer = dma_.allocate(kHeader + mac.size() + 1).value();
  buffer.data()[0] = std::byte{1};
  buffer.data()[1] = std::byte{1};
  std::memcpy(buffer.data() + kHeader, mac.data(), mac.size());
  std::byte& status = buffer.data()[kHeader + mac.size()];
  status = std::byte{0xff};
  QueueHandle queue = driver->acquire(kControl).value();
  {
    auto request = queue.ring().begin(3, 1);
    ASSERT_EQ(request.add_readable(buffer.gpa(), kHeader), absl::OkStatus());
    ASSERT_EQ(request.add_readable(buffer.gpa() + kHeader, mac.size()),
              absl::OkStatus());
    ASSERT_EQ(request.add_writable(buffer.gpa() + kHeader + mac.size(), 1),
              absl::OkStatus());
    ASSERT_EQ(request.submit(), absl::OkStatus());
  }
  ASSERT_EQ(queue.kick(), absl::OkStatus());
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!queue.ring().has_completions() &&
         std::chrono::steady_clock::now() < deadline) {
  }
  ASSERT_TRUE(queue.ring().has_completions());
  EXPECT_EQ(status, std::byte{0});
  // No interrupt says that the configuration changed: it is read anew.
  ASSERT_TRUE(queue.release().ok());
  driver.reset();
  driver = make_net(vdpa(kVdpaNet), 2);
  ASSERT_TRUE(driver->reset(kNetWantedFeatures).ok());
  EXPECT_EQ(mac_of(*driver), mac);
}

}  // namespace
}  // namespace vhost::testing
