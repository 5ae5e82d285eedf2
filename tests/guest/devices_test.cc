// SPDX-License-Identifier: Apache-2.0
//
// What a guest offers to the tests in it: the kernel's devices, root, and a
// simulator behind each vDPA node.

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vhostdev/unique_fd.h"

namespace {

// VHOST_VDPA_GET_DEVICE_ID of linux/vhost.h, which is no C++.
constexpr unsigned long kGetDeviceId = _IOR(0xAF, 0x70, uint32_t);

vhost::UniqueFd open_device(const std::string& path) {
  return vhost::UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC));
}

uint32_t virtio_id(const std::string& path) {
  const vhost::UniqueFd device = open_device(path);
  uint32_t id = 0;
  EXPECT_EQ(ioctl(device.get(), kGetDeviceId, &id), 0) << path;
  return id;
}

TEST(Guest, RunsItsTestsAsRootOnTheKernelOfTheCache) {
  EXPECT_EQ(geteuid(), 0u);
  EXPECT_EQ(access("/run/order", R_OK), 0) << "this is not the guest";
}

TEST(Guest, HasTheDevicesOfTheModulesItWasAskedFor) {
  for (const char* path : {"/dev/vhost-net", "/dev/vhost-vsock"}) {
    EXPECT_TRUE(open_device(path).valid()) << path;
  }
}

TEST(Guest, GivesEachSimulatorANodeInTheOrderOfTheModules) {
  EXPECT_EQ(virtio_id("/dev/vhost-vdpa-0"), 2u) << "vdpa_sim_blk";
  EXPECT_EQ(virtio_id("/dev/vhost-vdpa-1"), 1u) << "vdpa_sim_net";
}

TEST(Guest, CanMakeATap) {
  const vhost::UniqueFd tap = open_device("/dev/net/tun");
  ifreq request = {};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  EXPECT_EQ(ioctl(tap.get(), TUNSETIFF, &request), 0);
}

}  // namespace
