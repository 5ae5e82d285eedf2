// SPDX-License-Identifier: Apache-2.0
// What of the dirty log stands in the way of a migration, each reason by name.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <functional>
#include <thread>

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

// Does `work` on a thread whose seccomp filter has no memfd_create.
void without_memfd(const std::function<void()>& work) {
  std::thread([&work] {
    sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EMFILE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const sock_fprog filter = {.len = 4, .filter = rules};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
    work();
  }).join();
}

TEST_F(LogBlockers, NameAMachineWhereThereIsNoMemfd) {
  make_running();
  without_memfd([this] {
    EXPECT_THAT(dev->migration_blockers(), named("memfd_create"));
  });
  EXPECT_THAT(dev->migration_blockers(), IsEmpty());
}

TEST_F(LogBlockers, DoNotNeedAMemfdForTheKernel) {
  make_running(testing::like_kernel());
  without_memfd([this] {
    EXPECT_THAT(dev->migration_blockers(), IsEmpty());
    EXPECT_TRUE(log_on().ok());
  });
}

TEST_F(LogBlockers, ALogWithoutAMemfdStaysOff) {
  make_running();
  without_memfd([this] {
    const absl::Status status = log_on();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("memfd_create"));
  });
  EXPECT_FALSE(context.log().active());
  expect_no_log_left();
  EXPECT_TRUE(log_on().ok());
}

}  // namespace
}  // namespace vhost
