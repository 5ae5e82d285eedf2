// SPDX-License-Identifier: Apache-2.0
// What of the dirty log stands in the way of a migration, each reason by name.
#include <sys/resource.h>

#include "tests/virtio/device_log_fixture.h"

namespace vhost {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class LogBlockers : public DeviceLog {
 protected:
  auto named(const char* reason) {
    return ElementsAre(AllOf(StartsWith("disk: "), HasSubstr(reason)));
  }
};

TEST_F(LogBlockers, AreNoneWhereABackEndLogs) {
  make_running();
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  ASSERT_TRUE(log_on().ok());
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
}

TEST_F(LogBlockers, NameABackEndWithoutLogAll) {
  BackendTraits traits = testing::like_vhost_user();
  traits.features.clear(kFeatureLogAll);
  make_ready(traits);
  EXPECT_THAT(dev->migration_blockers(), named("LOG_ALL"));
}

TEST_F(LogBlockers, NameABackEndWithoutLogShmfd) {
  BackendTraits traits = testing::like_vhost_user();
  traits.takes_log = false;
  make_ready(traits);
  EXPECT_THAT(dev->migration_blockers(), named("shared dirty log"));
}

TEST_F(LogBlockers, NameVdpa) {
  make_ready(testing::like_vdpa());
  EXPECT_THAT(dev->migration_blockers(), named("LOG_ALL"));
}

TEST_F(LogBlockers, NameVdpaThoughItOffersLogAll) {
  BackendTraits traits = testing::like_vdpa();
  traits.features.set(kFeatureLogAll);
  make_ready(traits);
  EXPECT_THAT(dev->migration_blockers(), named("does not take"));
}

TEST_F(LogBlockers, NameALogThatWasRefusedUntilItIsOff) {
  make_running();
  ops->refuse_next("SetLog", absl::AbortedError("not today"));
  ASSERT_FALSE(log_on().ok());
  EXPECT_THAT(dev->migration_blockers(), named("not today"));
  log_off();
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
}

// A process without a descriptor to spare, as one whose seccomp filter has no
// memfd_create.
class NoMemfd {
 public:
  NoMemfd() {
    EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &before_), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  ~NoMemfd() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoMemfd(const NoMemfd&) = delete;
  NoMemfd& operator=(const NoMemfd&) = delete;

 private:
  rlimit before_ = {};
};

TEST_F(LogBlockers, NameAMachineWhereThereIsNoMemfd) {
  make_running();
  {
    const NoMemfd no_memfd;
    EXPECT_THAT(dev->migration_blockers(), named("memfd_create"));
  }
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
}

TEST_F(LogBlockers, DoNotNeedAMemfdForTheKernel) {
  make_running(testing::like_kernel());
  const NoMemfd no_memfd;
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
  EXPECT_TRUE(log_on().ok());
}

TEST_F(LogBlockers, ALogWithoutAMemfdStaysOff) {
  make_running();
  {
    const NoMemfd no_memfd;
    const absl::Status status = log_on();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("memfd_create"));
  }
  EXPECT_FALSE(context.log().active());
  expect_no_log_left();
  EXPECT_TRUE(log_on().ok());
}

}  // namespace
}  // namespace vhost
