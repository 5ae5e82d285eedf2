// SPDX-License-Identifier: Apache-2.0
// What a real kernel refuses of a vhost-vdpa device, and how that is said.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "backends/vdpa/vdpa_device.h"
#include "backends/vdpa/vdpa_errors.h"
#include "backends/vdpa/vdpa_uapi.h"
#include "tests/guest/vdpa_guest.h"
#include "vhostdev/testing/fake_memory_table.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kNeeded =
    uint64_t{1} << kFeatureAccessPlatform | uint64_t{1} << kFeatureVersion1;

MATCHER_P3(IsRefusal, request, error, cause, "") {
  const std::string text(arg.message());
  *result_listener << arg;
  return arg.code() == absl::StatusCode::kAborted &&
         text.find(request) != std::string::npos &&
         text.find("(errno " + std::to_string(error) + ")") !=
             std::string::npos &&
         text.find(cause) != std::string::npos;
}

class VdpaErrors : public ::testing::Test {
 protected:
  static std::unique_ptr<VdpaFile> open_file() {
    auto file = open_vdpa_file(OpenVdpaDevice{kVdpaBlk});
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  static std::unique_ptr<VdpaDevice> open_device() {
    auto device = std::make_unique<VdpaDevice>(open_file(), VhostVdpaOptions());
    EXPECT_EQ(device->start_up(), absl::OkStatus());
    return device;
  }
  static absl::Status set_vring(VdpaDevice& device, unsigned long request,
                                uint32_t index, uint32_t value) {
    vhost_vring_state state = {.index = index, .num = value};
    return device.call(request, "THE_REQUEST", &state);
  }

  MemoryLockLimit limit_{RLIM_INFINITY};
};

TEST_F(VdpaErrors, OfADeviceThatIsNotOwned) {
  const auto file = open_file();
  vhost_vring_state state = {.index = 0, .num = 256};
  EXPECT_EQ(file->ioctl(VHOST_SET_VRING_NUM, &state), EPERM);
  EXPECT_EQ(file->ioctl(VHOST_VDPA_GET_VRING_GROUP, &state), EPERM);
  VdpaMappings mappings(*file);
  mappings.set_limits({.iova_last = ~uint64_t{0}, .batches = true});
  MemoryDiff diff;
  diff.added = {entry_at(0, MemoryRegion::create_memfd("one", kPage).value())};
  EXPECT_FALSE(mappings.change(diff).added[0].ok());
  EXPECT_TRUE(read_vdpa_info(*file).ok());
}

TEST_F(VdpaErrors, OfAnOwner) {
  const auto device = open_device();
  EXPECT_THAT(device->call(VHOST_SET_OWNER, "VHOST_SET_OWNER", nullptr),
              IsRefusal("VHOST_SET_OWNER", EBUSY, "has an owner already"));
}

TEST_F(VdpaErrors, OfFeaturesAndStatus) {
  const auto device = open_device();
  uint64_t features = uint64_t{1} << kFeatureVersion1;
  EXPECT_THAT(device->accept_features(features),
              IsRefusal("VHOST_SET_FEATURES", EINVAL, "insists"));
  ASSERT_EQ(device->accept_features(kNeeded), absl::OkStatus());
  features = kNeeded;
  EXPECT_THAT(device->call(VHOST_SET_FEATURES, "VHOST_SET_FEATURES", &features),
              IsRefusal("VHOST_SET_FEATURES", EBUSY, "only a reset"));
  uint8_t less = kStatusAcknowledge;
  EXPECT_THAT(
      device->call(VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS", &less),
      IsRefusal("VHOST_VDPA_SET_STATUS", EINVAL, "by a reset only"));
  uint64_t backend = uint64_t{1} << 40;
  EXPECT_THAT(device->call(VHOST_SET_BACKEND_FEATURES,
                           "VHOST_SET_BACKEND_FEATURES", &backend),
              IsRefusal("VHOST_SET_BACKEND_FEATURES", EOPNOTSUPP, "offered"));
}

TEST_F(VdpaErrors, OfRings) {
  const auto device = open_device();
  ASSERT_EQ(device->accept_features(kNeeded), absl::OkStatus());
  for (const uint32_t num : {0u, 3u, 65536u}) {
    EXPECT_THAT(set_vring(*device, VHOST_SET_VRING_NUM, 0, num),
                IsRefusal("THE_REQUEST", EINVAL, "power of 2"));
  }
  EXPECT_THAT(set_vring(*device, VHOST_SET_VRING_NUM, 9, 256),
              IsRefusal("THE_REQUEST", ENOBUFS, "no such queue"));
  EXPECT_THAT(set_vring(*device, VHOST_SET_VRING_BASE, 0, 70000),
              IsRefusal("THE_REQUEST", EINVAL, "not a position"));
  const UniqueFd no_eventfd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  vhost_vring_file kick = {.index = 0, .fd = no_eventfd.get()};
  EXPECT_THAT(device->call(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", &kick),
              IsRefusal("VHOST_SET_VRING_KICK", EINVAL, "not an eventfd"));
  kick.fd = 777;
  EXPECT_THAT(device->call(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK", &kick),
              IsRefusal("VHOST_SET_VRING_KICK", EBADF, "not open"));
}

TEST_F(VdpaErrors, OfGroups) {
  const auto device = open_device();
  EXPECT_THAT(set_vring(*device, VHOST_VDPA_SET_GROUP_ASID, 0, 1),
              IsRefusal("THE_REQUEST", EINVAL, "no such group or address"));
  EXPECT_THAT(set_vring(*device, VHOST_VDPA_SET_GROUP_ASID, 1, 0),
              IsRefusal("THE_REQUEST", ENOBUFS, "no such group"));
}

TEST_F(VdpaErrors, OfTheLogWhichThereIsNot) {
  const auto device = open_device();
  uint64_t base = 0;
  EXPECT_THAT(device->call(VHOST_SET_LOG_BASE, "VHOST_SET_LOG_BASE", &base),
              IsRefusal("VHOST_SET_LOG_BASE", ENOTTY, "no dirty log"));
  int fd = -1;
  EXPECT_THAT(device->call(VHOST_SET_LOG_FD, "VHOST_SET_LOG_FD", &fd),
              IsRefusal("VHOST_SET_LOG_FD", ENOTTY, "no dirty log"));
}

TEST_F(VdpaErrors, OfTheConfigurationSpace) {
  const auto device = open_device();
  std::vector<std::byte> arg(sizeof(vhost_vdpa_config) + 8);
  auto* const config = reinterpret_cast<vhost_vdpa_config*>(arg.data());
  config->off = device->info().config_size;
  config->len = 8;
  EXPECT_THAT(
      device->call(VHOST_VDPA_GET_CONFIG, "VHOST_VDPA_GET_CONFIG", arg.data()),
      IsRefusal("VHOST_VDPA_GET_CONFIG", EINVAL, "outside"));
}

TEST_F(VdpaErrors, OfMemory) {
  const auto device = open_device();
  const auto region = MemoryRegion::create_memfd("ram", 4 * kPage).value();
  MemoryDiff diff;
  diff.added = {entry_at(0, region), entry_at(2 * kPage, region),
                entry_at(64 * kPage, region)};
  // Nothing is mapped there in this process.
  diff.added[2].user = 16 * kPage;
  const auto out = device->mappings().change(diff);
  EXPECT_EQ(out.fate, absl::OkStatus());
  EXPECT_EQ(out.added[0], absl::OkStatus());
  EXPECT_THAT(std::string(out.added[1].message()), HasSubstr("mapped already"));
  EXPECT_THAT(out.added[2], IsRefusal("VHOST_IOTLB_UPDATE asid 0, iova 0x40000",
                                      EFAULT, "not mapped in this process"));
}

TEST_F(VdpaErrors, OfAnAddressSpaceThatThereIsNot) {
  const auto file = open_file();
  ASSERT_EQ(file->ioctl(VHOST_SET_OWNER, nullptr), 0);
  uint64_t backend = 0x1e;
  ASSERT_EQ(file->ioctl(VHOST_SET_BACKEND_FEATURES, &backend), 0);
  VdpaMappings mappings(*file);
  mappings.set_limits(
      {.iova_last = ~uint64_t{0}, .batches = true, .address_spaces = {5}});
  MemoryDiff diff;
  diff.added = {entry_at(0, MemoryRegion::create_memfd("one", kPage).value())};
  EXPECT_THAT(mappings.change(diff).added[0],
              IsRefusal("VHOST_IOTLB_BATCH_BEGIN asid 5", EFAULT, ""));
}

}  // namespace
}  // namespace vhost::testing
