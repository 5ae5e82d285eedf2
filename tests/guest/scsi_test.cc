// SPDX-License-Identifier: Apache-2.0
//
// A disk behind the kernel's vhost-scsi, as a guest's driver sees it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/virtio_scsi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/guest/scsi_target.h"
#include "tests/peers/test_disk.h"
#include "tests/vsock/vsock_guest.h"
#include "vhostdev/scsi_device.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/virtio_driver.h"

namespace vhost::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kWwpn[] = "naa.5001405cc0ffee00";
// vhost-scsi gives its targets the numbers of their portal groups.
constexpr uint8_t kTarget = 1;
constexpr uint64_t kSize = 1 << 20;
constexpr size_t kBlock = 512;

// Source: SPC-4, SBC-3.
constexpr uint8_t kInquiry = 0x12;
constexpr uint8_t kRead10 = 0x28;
constexpr uint8_t kWrite10 = 0x2a;
constexpr uint8_t kReadCapacity10 = 0x25;
constexpr uint8_t kGood = 0;

using Command = std::vector<uint8_t>;

// READ(10) or WRITE(10).
Command transfer(uint8_t code, uint8_t block, uint8_t blocks) {
  return {code, 0, 0, 0, 0, block, 0, 0, blocks, 0};
}

struct Answer {
  uint8_t response = 0xff;  // Of the host; VIRTIO_SCSI_S_OK...
  uint8_t status = 0xff;    // Of the disk.
  std::vector<std::byte> data;
};

// A driver of a SCSI host with one request queue.
class ScsiHost {
 public:
  explicit ScsiHost(const std::string& wwpn)
      : driver_(vm_.context, vm_.dma,
                make_vhost_scsi_ops({.wwpn = wwpn, .tpgt = 1, .queues = 3}),
                options(loop_.get())) {}
  ~ScsiHost() { let_go(); }

  absl::Status start() {
    absl::Status status =
        driver_.reset({kFeatureVersion1, kScsiFeatureHotplug}).status();
    if (status.ok()) {
      status = driver_.start({.queues = 1, .fixed = 2, .depth = 64}).status();
    }
    if (!status.ok()) return status;
    auto queue = driver_.acquire(ScsiQueues::request(0));
    if (!queue.ok()) return queue.status();
    queue_ = *std::move(queue);
    auto events = driver_.acquire(ScsiQueues::kEvent);
    if (events.ok()) events_ = *std::move(events);
    return events.status();
  }
  absl::Status stop() {
    let_go();
    const auto stopped =
        driver_.stop(VirtioDriver::StopMode::kDrain, kPatience);
    return stopped.ok() ? stopped->status : stopped.status();
  }
  VirtioDriver& driver() { return driver_; }

  // Gives the host a buffer for an event.
  void await_event() {
    event_ = vm_.dma.allocate(sizeof(virtio_scsi_event)).value();
    auto request = events_.ring().begin(1, 7);
    EXPECT_TRUE(
        request.add_writable(event_.gpa(), sizeof(virtio_scsi_event)).ok());
    EXPECT_TRUE(request.submit().ok());
    EXPECT_TRUE(events_.kick().ok());
  }
  std::optional<virtio_scsi_event> event() {
    virtio_scsi_event out;
    if (!completed(events_)) return std::nullopt;
    std::memcpy(&out, event_.data(), sizeof(out));
    return out;
  }

  // One command to LUN 0 of `target`; `out` goes to the disk, `in` bytes come.
  std::optional<Answer> run(uint8_t target, const Command& command,
                            std::span<const std::byte> out, size_t in) {
    virtio_scsi_cmd_req header = {};
    const auto lun = scsi_lun(target, 0);
    std::memcpy(header.lun, lun.data(), lun.size());
    header.tag = 1;
    std::memcpy(header.cdb, command.data(), command.size());
    DmaBuffer memory = vm_.dma.allocate(4096 + out.size() + in).value();
    virtio_scsi_cmd_resp response = {};
    const uint64_t at_out = sizeof(header);
    const uint64_t at_response = 1024 + out.size();
    const uint64_t at_in = at_response + sizeof(response);
    std::memcpy(memory.data(), &header, sizeof(header));
    if (!out.empty()) {
      std::memcpy(memory.data() + at_out, out.data(), out.size());
    }
    auto request = queue_.ring().begin(4, 7);
    EXPECT_TRUE(request.add_readable(memory.gpa(), sizeof(header)).ok());
    if (!out.empty()) {
      EXPECT_TRUE(request
                      .add_readable(memory.gpa() + at_out,
                                    static_cast<uint32_t>(out.size()))
                      .ok());
    }
    EXPECT_TRUE(
        request.add_writable(memory.gpa() + at_response, sizeof(response))
            .ok());
    if (in != 0) {
      EXPECT_TRUE(
          request.add_writable(memory.gpa() + at_in, static_cast<uint32_t>(in))
              .ok());
    }
    EXPECT_TRUE(request.submit().ok());
    EXPECT_TRUE(queue_.kick().ok());
    if (!completed(queue_)) return std::nullopt;
    std::memcpy(&response, memory.data() + at_response, sizeof(response));
    const std::byte* const data = memory.data() + at_in;
    return Answer{response.response, response.status, {data, data + in}};
  }

 private:
  static VirtioDriver::Options options(EpollEventLoop* loop) {
    VirtioDriver::Options out;
    out.name = "scsi";
    out.device_id = kDeviceIdScsi;
    out.max_queues = 3;
    out.own_loop = loop;
    return out;
  }
  void let_go() {
    queue_ = {};
    events_ = {};
  }
  static bool completed(QueueHandle& queue) {
    const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
    std::array<RingCompletion, 1> done;
    while (std::chrono::steady_clock::now() < deadline) {
      const auto count = queue.ring().poll(done);
      if (!count.ok()) return false;
      if (*count == 1) return done[0].cookie == 7;
      std::this_thread::yield();
    }
    return false;
  }

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop_ = *EpollEventLoop::create();
  TestVm vm_{*loop_};
  VirtioDriver driver_;
  QueueHandle queue_;
  QueueHandle events_;
  DmaBuffer event_;
};

class KernelScsi : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const absl::Status made = make_scsi_target(kWwpn, "/tmp/disk", kSize);
    ASSERT_TRUE(made.ok()) << made;
  }
};

TEST_F(KernelScsi, HasTheInterfaceThatIsKnown) {
  const auto version = vhost_scsi_abi_version(OpenDevice{"/dev/vhost-scsi"});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(*version, 1);
  EXPECT_FALSE(vhost_scsi_abi_version(OpenDevice{"/dev/null"}).ok());
  EXPECT_TRUE(absl::IsUnavailable(
      vhost_scsi_abi_version(OpenDevice{"/dev/none"}).status()));
}

TEST_F(KernelScsi, SaysWhatTheDiskIs) {
  ScsiHost host(kWwpn);
  ASSERT_TRUE(host.start().ok());
  EXPECT_TRUE(host.driver().has(kScsiFeatureHotplug));
  const auto inquiry = host.run(kTarget, {kInquiry, 0, 0, 0, 36, 0}, {}, 36);
  ASSERT_TRUE(inquiry.has_value());
  EXPECT_EQ(inquiry->response, VIRTIO_SCSI_S_OK);
  EXPECT_EQ(inquiry->status, kGood);
  const auto* text = reinterpret_cast<const char*>(inquiry->data.data());
  EXPECT_EQ(std::string(text + 8, 8), "LIO-ORG ");
  const auto capacity = host.run(
      kTarget, Command{kReadCapacity10, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, 8);
  ASSERT_TRUE(capacity.has_value());
  EXPECT_EQ(capacity->data[2], std::byte{(kSize / kBlock - 1) >> 8});
  EXPECT_EQ(capacity->data[3], std::byte{(kSize / kBlock - 1) & 0xff});
  EXPECT_TRUE(host.stop().ok());
}

TEST_F(KernelScsi, ReadsWhatWasWritten) {
  ScsiHost host(kWwpn);
  ASSERT_TRUE(host.start().ok());
  const auto bytes = some_bytes(8 * kBlock, 1);
  const auto written = host.run(kTarget, transfer(kWrite10, 16, 8), bytes, 0);
  ASSERT_TRUE(written.has_value());
  EXPECT_EQ(written->response, VIRTIO_SCSI_S_OK);
  EXPECT_EQ(written->status, kGood);
  const auto read =
      host.run(kTarget, transfer(kRead10, 16, 8), {}, bytes.size());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->status, kGood);
  EXPECT_TRUE(read->data == bytes);
  ASSERT_TRUE(host.stop().ok());
  // The endpoint was given back and is taken anew.
  ASSERT_TRUE(host.start().ok());
  const auto again =
      host.run(kTarget, transfer(kRead10, 16, 8), {}, bytes.size());
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->data == bytes);
  EXPECT_TRUE(host.stop().ok());
}

TEST_F(KernelScsi, SaysThatThereIsNoSuchTarget) {
  ScsiHost host(kWwpn);
  ASSERT_TRUE(host.start().ok());
  const auto inquiry = host.run(9, {kInquiry, 0, 0, 0, 36, 0}, {}, 36);
  ASSERT_TRUE(inquiry.has_value());
  EXPECT_EQ(inquiry->response, VIRTIO_SCSI_S_BAD_TARGET);
  EXPECT_TRUE(host.stop().ok());
}

TEST_F(KernelScsi, TellsTheGuestOfALunThatComes) {
  ScsiHost host(kWwpn);
  ASSERT_TRUE(host.start().ok());
  ASSERT_TRUE(host.driver().has(kScsiFeatureHotplug));
  host.await_event();
  const absl::Status added = add_scsi_lun(kWwpn, 5);
  ASSERT_TRUE(added.ok()) << added;
  const auto event = host.event();
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->event, VIRTIO_SCSI_T_TRANSPORT_RESET);
  EXPECT_EQ(event->reason, VIRTIO_SCSI_EVT_RESET_RESCAN);
  EXPECT_EQ(event->lun[1], kTarget);
  EXPECT_EQ(event->lun[3], 5u);
}

TEST_F(KernelScsi, NamesAnEndpointThatIsNotThere) {
  ScsiHost host("naa.5001405000000000");
  const absl::Status status = host.start();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(
      std::string(status.message()),
      AllOf(HasSubstr("VHOST_SCSI_SET_ENDPOINT"), HasSubstr("no such target")));
}

TEST_F(KernelScsi, NamesAnEndpointThatIsInUse) {
  ScsiHost first(kWwpn);
  ASSERT_TRUE(first.start().ok());
  ScsiHost second(kWwpn);
  const absl::Status status = second.start();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("VHOST_SCSI_SET_ENDPOINT"), HasSubstr("ENODEV")));
  EXPECT_TRUE(first.stop().ok());
  EXPECT_TRUE(second.start().ok());
  EXPECT_TRUE(second.stop().ok());
}

}  // namespace
}  // namespace vhost::testing
