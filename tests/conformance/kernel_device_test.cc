// SPDX-License-Identifier: Apache-2.0
//
// The requests one by one, what their failures say, and what is checked before
// the kernel is asked.
#include "backends/kernel/kernel_device.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/kernel/memory_table.h"
#include "backends/kernel/refusal.h"
#include "backends/kernel/vhost_uapi.h"
#include "tests/conformance/fake_kernel.h"
#include "tests/fakes/ops_driver.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;

using Code = absl::StatusCode;

// The second of two vhost-net devices: its rings are queues 2 and 3.
class KernelRequests : public ::testing::Test {
 protected:
  KernelRequests() {
    kernel_.has_workers = true;
    kernel_.has_fork_choice = true;
    kernel_.has_cross_endian = true;
  }

  static constexpr BackendQueue kFirst{2};
  static constexpr BackendQueue kSecond{3};

  FakeKernel kernel_{FakeKernel::Kind::kNet};
  BackendCounters counters_;
  KernelDevice device_{*kernel_.opener()("vhost-net"), kFirst, counters_};
};

TEST_F(KernelRequests, CountSystemCallsAndDescriptors) {
  auto notifier = EventNotifier::create();
  ASSERT_TRUE(notifier.ok());
  ASSERT_EQ(device_.set_owner(), absl::OkStatus());
  ASSERT_EQ(device_.set_call(kSecond, notifier->write_fd().get()),
            absl::OkStatus());
  ASSERT_EQ(device_.set_call(kSecond, -1), absl::OkStatus());
  EXPECT_EQ(counters_.messages, 3u);
  EXPECT_EQ(counters_.fds, 1u);
}

TEST_F(KernelRequests, WorkersAreMadeAttachedAndFreed) {
  ASSERT_EQ(device_.set_owner(), absl::OkStatus());
  const auto worker = device_.new_worker();
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_EQ(device_.attach_worker(kSecond, *worker), absl::OkStatus());
  EXPECT_EQ(device_.worker_of(kSecond).value(), *worker);
  const absl::Status used = device_.free_worker(*worker);
  EXPECT_THAT(std::string(used.message()), HasSubstr("a ring uses the worker"));
  const auto other = device_.new_worker();
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(device_.free_worker(*other), absl::OkStatus());
}

TEST_F(KernelRequests, TheForkChoiceComesBeforeTheOwner) {
  ASSERT_EQ(device_.set_fork_from_owner(false), absl::OkStatus());
  EXPECT_FALSE(device_.fork_from_owner().value());
  ASSERT_EQ(device_.set_owner(), absl::OkStatus());
  EXPECT_EQ(device_.set_fork_from_owner(true).code(), Code::kAborted);
}

TEST_F(KernelRequests, BusyloopIsReadBack) {
  ASSERT_EQ(device_.set_owner(), absl::OkStatus());
  ASSERT_EQ(device_.set_busyloop(kSecond, 50), absl::OkStatus());
  EXPECT_EQ(device_.busyloop(kSecond).value(), 50u);
  EXPECT_EQ(device_.busyloop(kFirst).value(), 0u);
}

TEST_F(KernelRequests, TheErrnoOfAnOldKernelForNewFeaturesDoesNotMatter) {
  kernel_.planned.fail(VHOST_GET_FEATURES_ARRAY, EFAULT);
  EXPECT_EQ(device_.features().value(), FeatureSet::from_words(0x33d008000));
}

TEST(KernelScsiRequests, EventsMissedAreReadBack) {
  FakeKernel kernel(FakeKernel::Kind::kScsi, 3);
  BackendCounters counters;
  KernelDevice device(*kernel.opener()("vhost-scsi"), BackendQueue{0},
                      counters);
  ASSERT_EQ(device.set_owner(), absl::OkStatus());
  ASSERT_EQ(device.scsi_set_events_missed(true), absl::OkStatus());
  EXPECT_TRUE(device.scsi_events_missed().value());
}

// ---------------------------------------------------------------------------
// Refusals
// ---------------------------------------------------------------------------

struct Refused {
  unsigned long request;
  int error;
  Code code;
  const char* text;
};

class KernelRefusal : public ::testing::TestWithParam<Refused> {};

TEST_P(KernelRefusal, NamesTheRequestTheErrnoAndTheCause) {
  const absl::Status status =
      refusal(GetParam().request, std::nullopt, GetParam().error);
  EXPECT_EQ(status.code(), GetParam().code);
  EXPECT_EQ(std::string(status.message()), GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(
    Seen, KernelRefusal,
    ::testing::Values(
        Refused{VHOST_SET_OWNER, EBUSY, Code::kAborted,
                "VHOST_SET_OWNER: EBUSY (Device or resource busy): the device "
                "has an owner already"},
        Refused{VHOST_SET_MEM_TABLE, EPERM, Code::kAborted,
                "VHOST_SET_MEM_TABLE: EPERM (Operation not permitted): this "
                "process is not the device's owner"},
        Refused{VHOST_SET_MEM_TABLE, E2BIG, Code::kResourceExhausted,
                "VHOST_SET_MEM_TABLE: E2BIG (Argument list too long): more "
                "entries than the vhost module's max_mem_regions"},
        Refused{
            VHOST_SET_FEATURES, EOPNOTSUPP, Code::kAborted,
            "VHOST_SET_FEATURES: EOPNOTSUPP (Operation not supported): a bit "
            "that the kernel does not offer"},
        Refused{VHOST_NET_SET_BACKEND, ENOTSOCK, Code::kAborted,
                "VHOST_NET_SET_BACKEND: ENOTSOCK (Socket operation on "
                "non-socket): not a tap, macvtap or packet socket"},
        Refused{VHOST_SET_VRING_ENDIAN, ENOTTY, Code::kUnimplemented,
                "VHOST_SET_VRING_ENDIAN: ENOTTY (Inappropriate ioctl for "
                "device): a kernel without CONFIG_VHOST_CROSS_ENDIAN_LEGACY"},
        Refused{VHOST_GET_VRING_BASE, ENODEV, Code::kUnavailable,
                "VHOST_GET_VRING_BASE: ENODEV (No such device)"},
        Refused{VHOST_SET_LOG_BASE, ENOMEM, Code::kResourceExhausted,
                "VHOST_SET_LOG_BASE: ENOMEM (Cannot allocate memory)"},
        Refused{VHOST_SET_LOG_FD, 4000, Code::kAborted,
                "VHOST_SET_LOG_FD: errno 4000 (not known)"}));

TEST(KernelRefusalOfAQueue, NamesIt) {
  const absl::Status status =
      refusal(VHOST_SET_VRING_NUM, BackendQueue{3}, EINVAL);
  EXPECT_EQ(std::string(status.message()),
            "VHOST_SET_VRING_NUM vq 3: EINVAL (Invalid argument): ring size is "
            "0, not a power of 2 or above 32768");
}

// ---------------------------------------------------------------------------
// The memory table
// ---------------------------------------------------------------------------

MemoryTableEntry entry(uint64_t gpa, uint64_t size, uint64_t user) {
  MemoryTableEntry out;
  out.gpa = gpa;
  out.size = size;
  out.user = user;
  return out;
}

TEST(KernelMemoryTable, ThatIsSoundPassesInAnyOrder) {
  const std::vector<MemoryTableEntry> table = {
      entry(0x10000, 0x1000, 0x7000'0000),
      entry(0xffff'ffff'ffff'f000, 0x1000, 0x7100'0000),
      entry(0, 0x10000, 0x7200'0000)};
  EXPECT_EQ(check_memory_table(table, 3), absl::OkStatus());
  EXPECT_EQ(check_memory_table({}, 0), absl::OkStatus());
}

struct BadTable {
  const char* name;
  std::vector<MemoryTableEntry> table;
  Code code = Code::kInvalidArgument;
};

class KernelBadMemoryTable : public ::testing::TestWithParam<BadTable> {};

TEST_P(KernelBadMemoryTable, IsRefused) {
  const absl::Status status = check_memory_table(GetParam().table, 2);
  EXPECT_EQ(status.code(), GetParam().code) << status;
}

INSTANTIATE_TEST_SUITE_P(
    Tables, KernelBadMemoryTable,
    ::testing::Values(
        BadTable{"Empty", {entry(0x1000, 0, 0x1000)}},
        BadTable{"WrapsGpa", {entry(0xffff'ffff'ffff'f000, 0x2000, 0x1000)}},
        BadTable{"WrapsUser", {entry(0x1000, 0x2000, 0xffff'ffff'ffff'f000)}},
        BadTable{"Gpa", {entry(0x1001, 0x1000, 0x1000)}},
        BadTable{"Size", {entry(0x1000, 0x1001, 0x1000)}},
        BadTable{"User", {entry(0x1000, 0x1000, 0x1005)}},
        BadTable{"Overlap",
                 {entry(0x2000, 0x1000, 0x9000), entry(0x1000, 0x2000, 0)}},
        BadTable{"Same",
                 {entry(0x1000, 0x1000, 0), entry(0x1000, 0x1000, 0x9000)}},
        BadTable{"Many",
                 {entry(0, 0x1000, 0), entry(0x1000, 0x1000, 0x1000),
                  entry(0x2000, 0x1000, 0x2000)},
                 Code::kResourceExhausted}),
    [](const auto& table) { return std::string(table.param.name); });

TEST(KernelMemoryTable, TellsWhetherAnAddressIsInOnePieceOfIt) {
  const std::vector<MemoryTableEntry> table = {entry(0, 0x2000, 0x10000)};
  EXPECT_TRUE(table_holds(table, 0x10000, 0x2000));
  EXPECT_TRUE(table_holds(table, 0x11fff, 1));
  EXPECT_FALSE(table_holds(table, 0x10001, 0x2000));
  EXPECT_FALSE(table_holds(table, 0xffff, 1));
  EXPECT_FALSE(table_holds(table, 0x12000, 1));
  EXPECT_FALSE(table_holds(table, 0x11000, ~uint64_t{0}));
}

// ---------------------------------------------------------------------------
// What is taken from the system
// ---------------------------------------------------------------------------

TEST(KernelMemoryLimit, Is64WhereItCannotBeRead) {
  EXPECT_EQ(read_max_memory_regions("/nonexistent"), 64u);
  EXPECT_EQ(read_max_memory_regions("/proc/self/comm"), 64u);
}

TEST(KernelMemoryLimit, IsReadFromTheModulesParameter) {
  const std::string path =
      absl::StrCat(::testing::TempDir(), "max_mem_regions-", ::getpid());
  const UniqueFd file(
      ::open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600));
  ASSERT_EQ(::write(file.get(), "509\n", 4), 4);
  EXPECT_EQ(read_max_memory_regions(path.c_str()), 509u);
  ::unlink(path.c_str());
}

TEST(KernelFile, OfTheCallersIsReadWithoutBlocking) {
  int ends[2] = {-1, -1};
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd write_end(ends[1]);
  const auto file = adopt_vhost_file(UniqueFd(ends[0]));
  ASSERT_TRUE(file.ok());
  std::array<std::byte, 8> buffer = {};
  size_t size = 0;
  EXPECT_EQ((*file)->read(buffer, size), EAGAIN);
  ASSERT_EQ(::write(write_end.get(), "abc", 3), 3);
  EXPECT_EQ((*file)->read(buffer, size), 0);
  EXPECT_EQ(size, 3u);
  EXPECT_EQ((*file)->ioctl(VHOST_SET_OWNER, nullptr), ENOTTY);
  EXPECT_EQ((*file)->write(buffer), EBADF);
}

TEST(KernelFile, ThatIsNotOpenIsRefused) {
  EXPECT_EQ(adopt_vhost_file(UniqueFd()).status().code(),
            Code::kInvalidArgument);
}

// ---------------------------------------------------------------------------
// IOTLB messages
// ---------------------------------------------------------------------------

TEST(KernelIotlbMessage, HasTheKernelsLayout) {
  const UpdateIotlb update = {.entry = {.iova = 0x1000,
                                        .size = 0x2000,
                                        .gpa = 0x3000,
                                        .access = IotlbAccess::kBoth},
                              .user = 0x7000};
  const IotlbMessage message = encode_iotlb(update, IotlbVersion::kTwo);
  vhost_msg_v2 seen = {};
  std::memcpy(&seen, message.data(), sizeof(seen));
  EXPECT_EQ(seen.type, 2u);
  EXPECT_EQ(seen.iotlb.iova, 0x1000u);
  EXPECT_EQ(seen.iotlb.size, 0x2000u);
  EXPECT_EQ(seen.iotlb.uaddr, 0x7000u);
  EXPECT_EQ(seen.iotlb.perm, VHOST_ACCESS_RW);
  EXPECT_EQ(seen.iotlb.type, VHOST_IOTLB_UPDATE);
}

TEST(KernelIotlbMessage, OfTheOtherVersionOrLengthIsMalformed) {
  UpdateIotlb miss;
  miss.entry.access = IotlbAccess::kRead;
  miss.entry.size = 1;
  IotlbMessage message = encode_iotlb(miss, IotlbVersion::kOne);
  message[8 + 25] = std::byte{VHOST_IOTLB_MISS};
  EXPECT_TRUE(decode_iotlb(message, IotlbVersion::kOne).ok());
  EXPECT_EQ(decode_iotlb(message, IotlbVersion::kTwo).status().code(),
            Code::kDataLoss);
  EXPECT_EQ(decode_iotlb(std::span(message).first(71), IotlbVersion::kOne)
                .status()
                .code(),
            Code::kDataLoss);
  message[8 + 24] = std::byte{0};
  EXPECT_EQ(decode_iotlb(message, IotlbVersion::kOne).status().code(),
            Code::kDataLoss)
      << "access to nothing";
}

}  // namespace
}  // namespace vhost::testing
