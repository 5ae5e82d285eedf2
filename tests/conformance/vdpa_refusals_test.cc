// SPDX-License-Identifier: Apache-2.0
// Whatever a vDPA device refuses, the status names the request and the cause.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <utility>

#include "tests/conformance/vdpa_fixture.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Code = absl::StatusCode;

struct Request {
  unsigned long number;
  const char* name;
};
std::ostream& operator<<(std::ostream& out, const Request& request) {
  return out << request.name;
}

// Of a whole life: open, start, change, stop, close.
constexpr Request kRequests[] = {
    {VHOST_SET_OWNER, "VHOST_SET_OWNER"},
    {VHOST_VDPA_SET_STATUS, "VHOST_VDPA_SET_STATUS"},
    {VHOST_VDPA_GET_STATUS, "VHOST_VDPA_GET_STATUS"},
    {VHOST_VDPA_GET_DEVICE_ID, "VHOST_VDPA_GET_DEVICE_ID"},
    {VHOST_GET_FEATURES, "VHOST_GET_FEATURES"},
    {VHOST_GET_BACKEND_FEATURES, "VHOST_GET_BACKEND_FEATURES"},
    {VHOST_SET_BACKEND_FEATURES, "VHOST_SET_BACKEND_FEATURES"},
    {VHOST_VDPA_GET_VQS_COUNT, "VHOST_VDPA_GET_VQS_COUNT"},
    {VHOST_VDPA_GET_GROUP_NUM, "VHOST_VDPA_GET_GROUP_NUM"},
    {VHOST_VDPA_GET_AS_NUM, "VHOST_VDPA_GET_AS_NUM"},
    {VHOST_VDPA_GET_VRING_GROUP, "VHOST_VDPA_GET_VRING_GROUP"},
    {VHOST_VDPA_GET_VRING_NUM, "VHOST_VDPA_GET_VRING_NUM"},
    {VHOST_VDPA_GET_CONFIG_SIZE, "VHOST_VDPA_GET_CONFIG_SIZE"},
    {VHOST_VDPA_GET_IOVA_RANGE, "VHOST_VDPA_GET_IOVA_RANGE"},
    {VHOST_SET_FEATURES, "VHOST_SET_FEATURES"},
    {VHOST_VDPA_SET_GROUP_ASID, "VHOST_VDPA_SET_GROUP_ASID"},
    {VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM"},
    {VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE"},
    {VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR"},
    {VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL"},
    {VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK"},
    {VHOST_VDPA_SET_VRING_ENABLE, "VHOST_VDPA_SET_VRING_ENABLE"},
    {VHOST_VDPA_GET_CONFIG, "VHOST_VDPA_GET_CONFIG"},
    {VHOST_VDPA_SET_CONFIG, "VHOST_VDPA_SET_CONFIG"},
    {VHOST_VDPA_SET_CONFIG_CALL, "VHOST_VDPA_SET_CONFIG_CALL"},
    {VHOST_VDPA_SUSPEND, "VHOST_VDPA_SUSPEND"},
    {VHOST_VDPA_RESUME, "VHOST_VDPA_RESUME"},
    {VHOST_GET_VRING_BASE, "VHOST_GET_VRING_BASE"},
};

class VdpaRefusals : public VdpaFixture,
                     public ::testing::WithParamInterface<Request> {
 protected:
  VdpaRefusals() {
    device_.groups = 2;
    device_.address_spaces = 2;
    device_.backend_features |= uint64_t{1} << kVdpaResume;
    options_.group_address_spaces = {{.group = 1, .address_space = 1}};
    make_ops();
  }

  // The first failure of a whole life.
  absl::Status live() {
    const SetConfig write = {.offset = 0, .bytes = {std::byte{1}}};
    const Verb life[] = {Open{.config_size = 4},
                         SetFeatures{{kFeatureVersion1}},
                         guest_.configure(),
                         SetConfigCall{},
                         guest_.go(),
                         DriverOk{},
                         write,
                         Quiesce{guest_.all()},
                         Resume{},
                         Quiesce{guest_.all()},
                         Harvest{guest_.all()},
                         ResetStatus{}};
    for (const Verb& verb : life) {
      const absl::Status status = do_verb(verb);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
};

TEST_P(VdpaRefusals, NameTheRequestAndTheErrno) {
  device_.planned.fail(GetParam().number, EIO);
  const absl::Status status = live();
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("vhost-vdpa: "), HasSubstr(GetParam().name),
                    HasSubstr("errno 5")));
}

TEST_P(VdpaRefusals, ADeviceThatIsGoneIsClosedAndTold) {
  device_.planned.fail(GetParam().number, ENODEV);
  const absl::Status status = live();
  EXPECT_EQ(status.code(), Code::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().name));
  EXPECT_FALSE(device_.open);
  EXPECT_LE(sink_.lost.size(), 1u);
}

TEST_P(VdpaRefusals, LeaveADeviceThatStartsAgain) {
  device_.planned.fail(GetParam().number, EIO);
  EXPECT_NE(live(), absl::OkStatus());
  ops_->close(absl::CancelledError("test"));
  EXPECT_EQ(live(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Requests, VdpaRefusals, ::testing::ValuesIn(kRequests),
                         [](const auto& test) {
                           return std::string(test.param.name);
                         });

struct Cause {
  const char* name;
  int error;
  unsigned long request;
  const char* text;
};
std::ostream& operator<<(std::ostream& out, const Cause& cause) {
  return out << cause.name;
}

class VdpaCauses : public ::testing::TestWithParam<Cause> {};

TEST_P(VdpaCauses, AreSaidWhereAnErrnoHasOneMeaning) {
  const absl::Status status =
      vdpa_refusal(GetParam().error, GetParam().request, "THE_REQUEST");
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("THE_REQUEST: "), HasSubstr(GetParam().text)));
}

INSTANTIATE_TEST_SUITE_P(
    Errnos, VdpaCauses,
    ::testing::Values(
        Cause{"Owner", EBUSY, VHOST_SET_OWNER, "has an owner already"},
        Cause{"NotOwned", EPERM, VHOST_SET_VRING_NUM, "does not own"},
        Cause{"Features", EINVAL, VHOST_SET_FEATURES, "insists"},
        Cause{"FeaturesLate", EBUSY, VHOST_SET_FEATURES, "only a reset"},
        Cause{"Backend", EOPNOTSUPP, VHOST_SET_BACKEND_FEATURES, "offered"},
        Cause{"Status", EINVAL, VHOST_VDPA_SET_STATUS, "by a reset only"},
        Cause{"Queue", ENOBUFS, VHOST_SET_VRING_ADDR, "no such queue"},
        Cause{"Group", ENOBUFS, VHOST_VDPA_SET_GROUP_ASID, "no such group"},
        Cause{"Num", EINVAL, VHOST_SET_VRING_NUM, "power of 2"},
        Cause{"Kick", EINVAL, VHOST_SET_VRING_KICK, "not an eventfd"},
        Cause{"Descriptor", EBADF, VHOST_SET_VRING_CALL, "not open"},
        Cause{"Config", EINVAL, VHOST_VDPA_GET_CONFIG, "outside"},
        Cause{"Suspend", EOPNOTSUPP, VHOST_VDPA_SUSPEND, "suspended"},
        Cause{"Log", ENOTTY, VHOST_SET_LOG_BASE, "no dirty log"},
        Cause{"Unknown", ENOTTY, VHOST_VDPA_GET_AS_NUM, "unknown"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(VdpaFile, ThatIsNoVdpaDeviceIsRefused) {
  const auto info = read_vhost_vdpa_info(OpenVdpaDevice{"/dev/null"});
  EXPECT_EQ(info.status().code(), Code::kAborted);
  EXPECT_THAT(std::string(info.status().message()),
              HasSubstr("VHOST_VDPA_GET_DEVICE_ID"));
  EXPECT_EQ(
      read_vhost_vdpa_info(OpenVdpaDevice{"/nonexistent"}).status().code(),
      Code::kUnavailable);
}

TEST(VdpaFile, OfTheCallersIsTakenOnceAndOnlyByOpen) {
  const auto file =
      std::make_shared<UniqueFd>(::open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(read_vhost_vdpa_info(UseVdpaDevice{file}).ok());
  EXPECT_TRUE(file->valid());
  VhostVdpaOptions options;
  options.device = UseVdpaDevice{file};
  const auto ops = make_vhost_vdpa_ops(options);
  EXPECT_EQ(drive_status(*ops, Open{}).code(), Code::kAborted);
  EXPECT_FALSE(file->valid());
  EXPECT_EQ(drive_status(*ops, Open{}).code(), Code::kFailedPrecondition);
}

TEST(VdpaFeatureNames, AreTheKernels) {
  EXPECT_EQ(vdpa_backend_feature_name(kVdpaSuspend), "SUSPEND");
  EXPECT_EQ(vdpa_backend_feature_name(kVdpaIotlbPersist), "IOTLB_PERSIST");
  EXPECT_EQ(vdpa_backend_feature_name(0), "bit 0");
  EXPECT_EQ(vdpa_backend_feature_name(40), "bit 40");
}

}  // namespace
}  // namespace vhost::testing
