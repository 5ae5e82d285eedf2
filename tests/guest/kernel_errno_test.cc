// SPDX-License-Identifier: Apache-2.0
//
// What the real vhost-net refuses, and what our statuses say of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backends/kernel/kernel_device.h"
#include "backends/kernel/memory_table.h"
#include "backends/kernel/refusal.h"
#include "backends/kernel/vhost_uapi.h"
#include "tests/guest/tap.h"

namespace vhost::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using Code = absl::StatusCode;

constexpr BackendQueue kReceive{0};
constexpr BackendQueue kSend{1};
constexpr BackendQueue kNone{2};
constexpr uint64_t kRam = 1 << 20;
constexpr uint64_t kRing = 0x4000;  // Bytes between rings.

class KernelErrno : public ::testing::Test {
 protected:
  void SetUp() override {
    auto file = open_vhost_file("/dev/vhost-net");
    ASSERT_TRUE(file.ok()) << file.status();
    device_ =
        std::make_unique<KernelDevice>(*std::move(file), kReceive, counters_);
    void* at = ::mmap(nullptr, kRam, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    ram_ = reinterpret_cast<uint64_t>(at);
  }
  void TearDown() override {
    device_ = nullptr;
    ::munmap(reinterpret_cast<void*>(ram_), kRam);
  }

  MemoryTableEntry ram(uint64_t gpa = 0, uint64_t size = kRam) const {
    MemoryTableEntry out;
    out.gpa = gpa;
    out.size = size;
    out.user = ram_;
    return out;
  }
  absl::Status set_table(const std::vector<MemoryTableEntry>& entries) {
    std::vector<std::byte> table = encode_memory_table(entries);
    return device_->set_memory_table(table);
  }
  absl::Status set_ring(BackendQueue vq) {
    const uint64_t at = ram_ + to_int(vq) * kRing;
    const absl::Status num = device_->set_num(vq, 256);
    return num.ok() ? device_->set_addr(vq, {.desc = at,
                                             .avail = at + 0x1000,
                                             .used = at + 0x2000,
                                             .log_gpa = 0x2000})
                    : num;
  }
  // A device with features, memory and both rings set, but no back-end.
  void prepare(FeatureSet features = {kFeatureVersion1}) {
    ASSERT_EQ(device_->set_owner(), absl::OkStatus());
    ASSERT_EQ(device_->set_features(features), absl::OkStatus());
    ASSERT_EQ(set_table({ram()}), absl::OkStatus());
    ASSERT_EQ(set_ring(kReceive), absl::OkStatus());
    ASSERT_EQ(set_ring(kSend), absl::OkStatus());
  }
  void run() {
    prepare();
    auto tap = Tap::create("errno0");
    ASSERT_TRUE(tap.ok()) << tap.status();
    tap_ = *std::move(tap);
    ASSERT_EQ(device_->net_set_backend(kReceive, tap_->fd().get()),
              absl::OkStatus());
  }

  // `status` begins with what was asked and the errno, and ends in its cause.
  static void expect(const absl::Status& status, Code code,
                     const std::string& start, const std::string& cause) {
    const std::string text(status.message());
    EXPECT_EQ(status.code(), code) << text;
    EXPECT_THAT(text, StartsWith(start));
    EXPECT_THAT(text, HasSubstr(cause));
  }

  BackendCounters counters_;
  uint64_t ram_ = 0;
  std::unique_ptr<Tap> tap_;
  std::unique_ptr<KernelDevice> device_;  // ORDER: closed before its tap.
};

TEST_F(KernelErrno, OffersWhatWasSeen) {
  const auto features = device_->features();
  ASSERT_TRUE(features.ok()) << features.status();
  EXPECT_TRUE(features->contains(FeatureSet::from_words(0x33d008000)))
      << std::hex << features->low();
  EXPECT_EQ(device_->backend_features().value_or(0) & 2, 2u);
}

TEST_F(KernelErrno, WithoutAnOwner) {
  EXPECT_EQ(device_->set_features({kFeatureVersion1}), absl::OkStatus());
  expect(set_table({ram()}), Code::kAborted, "VHOST_SET_MEM_TABLE: EPERM ",
         "not the device's owner");
  expect(device_->set_num(kSend, 256), Code::kAborted,
         "VHOST_SET_VRING_NUM vq 1: EPERM ", "not the device's owner");
  expect(device_->base(kReceive).status(), Code::kAborted,
         "VHOST_GET_VRING_BASE vq 0: EPERM ", "not the device's owner");
}

TEST_F(KernelErrno, ASecondOwner) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  expect(device_->set_owner(), Code::kAborted, "VHOST_SET_OWNER: EBUSY ",
         "has an owner already");
}

TEST_F(KernelErrno, UnknownFeatures) {
  expect(device_->set_features({kFeatureRingPacked}), Code::kAborted,
         "VHOST_SET_FEATURES: EOPNOTSUPP ", "does not offer");
  expect(device_->set_backend_features(uint64_t{1} << 40), Code::kAborted,
         "VHOST_SET_BACKEND_FEATURES: EOPNOTSUPP ", "does not offer");
}

TEST_F(KernelErrno, MemoryTables) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  const uint64_t limit = read_max_memory_regions();
  std::vector<MemoryTableEntry> many(limit, ram(0, 4096));
  for (uint64_t i = 0; i < limit; ++i) many[i].gpa = i * 4096;
  EXPECT_EQ(set_table(many), absl::OkStatus());
  many.push_back(ram(limit * 4096, 4096));
  expect(set_table(many), Code::kResourceExhausted,
         "VHOST_SET_MEM_TABLE: E2BIG ", "max_mem_regions");
  std::vector<std::byte> padded = encode_memory_table({});
  padded[4] = std::byte{1};
  expect(device_->set_memory_table(padded), Code::kAborted,
         "VHOST_SET_MEM_TABLE: EOPNOTSUPP ", "padding");
}

// Why tables are checked before the kernel is asked.
TEST_F(KernelErrno, MemoryTablesThatTheKernelTakesAndWeDoNot) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  const std::vector<MemoryTableEntry> overlap = {ram(0, 8192), ram(4096, 8192)};
  const std::vector<MemoryTableEntry> unaligned = {ram(1, 4095)};
  for (const auto& bad : {overlap, unaligned}) {
    EXPECT_EQ(set_table(bad), absl::OkStatus());
    EXPECT_EQ(check_memory_table(bad, 64).code(), Code::kInvalidArgument);
  }
}

TEST_F(KernelErrno, RingSizesAndBases) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  for (const uint32_t num : {0u, 3u, 65536u}) {
    expect(device_->set_num(kSend, num), Code::kAborted,
           "VHOST_SET_VRING_NUM vq 1: EINVAL ",
           "ring size is 0, not a power of 2 or above 32768");
  }
  EXPECT_EQ(device_->set_num(kSend, 32768), absl::OkStatus());
  expect(device_->set_base(kSend, 70000), Code::kAborted,
         "VHOST_SET_VRING_BASE vq 1: EINVAL ", "above 65535");
  expect(device_->set_num(kNone, 256), Code::kAborted,
         "VHOST_SET_VRING_NUM vq 2: ENOBUFS ", "no such ring");
}

TEST_F(KernelErrno, RingAddresses) {
  prepare();
  expect(
      device_->set_addr(
          kSend, {.desc = ram_, .avail = ram_ + 1, .used = ram_, .log_gpa = 0}),
      Code::kAborted, "VHOST_SET_VRING_ADDR vq 1: EINVAL ", "not aligned");
  EXPECT_EQ(
      device_->set_addr(
          kSend,
          {.desc = 0x10000, .avail = 0x20000, .used = 0x30000, .log_gpa = 0}),
      absl::OkStatus())
      << "outside the table, while nothing runs";
}

TEST_F(KernelErrno, ARingThatRuns) {
  run();
  expect(device_->set_num(kReceive, 128), Code::kAborted,
         "VHOST_SET_VRING_NUM vq 0: EBUSY ", "the ring runs");
  expect(device_->set_base(kReceive, 1), Code::kAborted,
         "VHOST_SET_VRING_BASE vq 0: EBUSY ", "the ring runs");
}

TEST_F(KernelErrno, Notifiers) {
  prepare();
  const int no_eventfd = 0;  // Standard input.
  expect(device_->set_kick(kSend, no_eventfd), Code::kAborted,
         "VHOST_SET_VRING_KICK vq 1: EINVAL ", "not an eventfd");
  expect(device_->set_call(kSend, no_eventfd), Code::kAborted,
         "VHOST_SET_VRING_CALL vq 1: EINVAL ", "not an eventfd");
  expect(device_->set_err(kSend, no_eventfd), Code::kAborted,
         "VHOST_SET_VRING_ERR vq 1: EINVAL ", "not an eventfd");
  expect(device_->set_log_fd(no_eventfd), Code::kAborted,
         "VHOST_SET_LOG_FD: EINVAL ", "not an eventfd");
  EXPECT_EQ(device_->set_kick(kSend, -1), absl::OkStatus());
}

TEST_F(KernelErrno, BackEnds) {
  prepare();
  const UniqueFd udp(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  for (const int fd : {udp.get(), event.get()}) {
    expect(device_->net_set_backend(kSend, fd), Code::kAborted,
           "VHOST_NET_SET_BACKEND vq 1: ENOTSOCK ", "not a tap");
  }
  expect(device_->net_set_backend(kNone, -1), Code::kAborted,
         "VHOST_NET_SET_BACKEND vq 2: ENOBUFS ", "no such ring");
  EXPECT_EQ(device_->net_set_backend(kSend, -1), absl::OkStatus());
}

TEST_F(KernelErrno, ABackEndForARingThatIsNotThere) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  auto tap = Tap::create("errno1");
  ASSERT_TRUE(tap.ok()) << tap.status();
  expect(device_->net_set_backend(kSend, (*tap)->fd().get()), Code::kAborted,
         "VHOST_NET_SET_BACKEND vq 1: EFAULT ", "not in the memory table");
}

TEST_F(KernelErrno, RequestsThatItDoesNotHave) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  expect(device_->set_big_endian(kSend, true), Code::kUnimplemented,
         "VHOST_SET_VRING_ENDIAN vq 1: ENOTTY ", "CROSS_ENDIAN");
  expect(device_->vsock_set_running(true), Code::kUnimplemented,
         "VHOST_VSOCK_SET_RUNNING: ENOTTY ", "no such request");
}

// What no function of ours asks for.
TEST(KernelErrnoRaw, OfRequestsThatWeDoNotMake) {
  auto file = open_vhost_file("/dev/vhost-net");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->ioctl(VHOST_SET_OWNER, nullptr), 0);
  vhost_vring_addr addr = {};
  addr.flags = 2;
  const int flags = (*file)->ioctl(VHOST_SET_VRING_ADDR, &addr);
  EXPECT_EQ(flags, EOPNOTSUPP);
  EXPECT_THAT(
      std::string(refusal(VHOST_SET_VRING_ADDR, kReceive, flags).message()),
      HasSubstr("vq 0: EOPNOTSUPP (Operation not supported): unknown flags"));
  uint64_t argument = 0;
  const unsigned long unknown = _IO(VHOST_VIRTIO, 0x6f);
  EXPECT_EQ((*file)->ioctl(unknown, &argument), ENOTTY);
  EXPECT_EQ((*file)->ioctl(unknown, nullptr), EFAULT);
  EXPECT_EQ((*file)->ioctl(VHOST_VDPA_GET_STATUS, &argument), ENOTTY);
  const std::array<std::byte, kIotlbMessageSize - 1> short_message = {};
  EXPECT_EQ((*file)->write(short_message), EINVAL);
  std::array<std::byte, kIotlbMessageSize> none = {};
  size_t size = 0;
  EXPECT_EQ((*file)->read(none, size), EAGAIN);
}

TEST_F(KernelErrno, BusyloopIsKept) {
  ASSERT_EQ(device_->set_owner(), absl::OkStatus());
  ASSERT_EQ(device_->set_busyloop(kSend, 50), absl::OkStatus());
  EXPECT_EQ(device_->busyloop(kSend).value_or(0), 50u);
}

TEST_F(KernelErrno, TranslationsThatCannotBe) {
  prepare({kFeatureVersion1, kFeatureAccessPlatform});
  ASSERT_EQ(device_->set_backend_features(2), absl::OkStatus());
  UpdateIotlb update = {.entry = {.iova = 0x1000,
                                  .size = 0,
                                  .gpa = 0,
                                  .access = IotlbAccess::kBoth},
                        .user = ram_};
  EXPECT_EQ(device_->send_iotlb(update, IotlbVersion::kTwo).code(),
            Code::kAborted);
  update.entry.size = 4096;
  update.user = ~uint64_t{4095};  // The kernel's half.
  const absl::Status status = device_->send_iotlb(update, IotlbVersion::kTwo);
  EXPECT_EQ(status.code(), Code::kAborted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("translation of 4096 bytes at iova 0x1000"));
  update.user = ram_;
  EXPECT_EQ(device_->send_iotlb(update, IotlbVersion::kTwo), absl::OkStatus());
  EXPECT_EQ(device_->send_iotlb(update, IotlbVersion::kTwo), absl::OkStatus())
      << "again is harmless";
  EXPECT_EQ(device_->send_iotlb(update, IotlbVersion::kOne), absl::OkStatus())
      << "both versions are understood";
}

// Decision 7: a device that was behind an IOMMU stays there.
TEST_F(KernelErrno, LeavingAnIommuNeedsItsOwnerReset) {
  prepare({kFeatureVersion1, kFeatureAccessPlatform});
  auto tap = Tap::create("errno2");
  ASSERT_TRUE(tap.ok()) << tap.status();
  tap_ = *std::move(tap);
  ASSERT_EQ(device_->set_features({kFeatureVersion1}), absl::OkStatus());
  expect(device_->net_set_backend(kSend, tap_->fd().get()), Code::kAborted,
         "VHOST_NET_SET_BACKEND vq 1: EFAULT ", "IOTLB");
  ASSERT_EQ(device_->reset_owner(), absl::OkStatus());
  prepare();
  EXPECT_EQ(device_->net_set_backend(kSend, tap_->fd().get()),
            absl::OkStatus());
}

}  // namespace
}  // namespace vhost::testing
