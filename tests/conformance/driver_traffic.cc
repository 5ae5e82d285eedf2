// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/driver_traffic.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/net_client.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kPiece = 4096;  // Bytes of one request.
constexpr uint32_t kInFlight = 4;

std::vector<std::byte> contents(uint64_t number, size_t size) {
  std::vector<std::byte> out(size);
  uint64_t word = number * 0x9e3779b97f4a7c15 + 1;
  for (std::byte& byte : out) {
    word = word * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(word >> 56);
  }
  return out;
}

absl::Status check_contents(std::span<const std::byte> got, uint64_t number) {
  const std::vector<std::byte> sent = contents(number, got.size());
  if (std::equal(got.begin(), got.end(), sent.begin())) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("exchange ", number, ": other contents came back"));
}

// ---------------------------------------------------------------------------
// Disks
// ---------------------------------------------------------------------------

class BlkTraffic final : public DriverTraffic {
 public:
  BlkTraffic(std::unique_ptr<BlkClient> client, DmaMemory& memory)
      : client_(std::move(client)), memory_(memory) {}

  uint32_t lanes() const override { return client_->queue_count(); }
  uint16_t requests_per_exchange() const override { return 2; }

  absl::Status exchange(uint32_t lane, uint64_t number) override {
    // New each time: memory that came while the device ran is used.
    absl::StatusOr<DmaBuffer> buffer = memory_.allocate(kPiece, 512);
    if (!buffer.ok()) return buffer.status();
    const std::vector<std::byte> sent = contents(number, kPiece);
    std::memcpy(buffer->data(), sent.data(), kPiece);
    VHOST_RETURN_IF_ERROR(run(BlkOp::kWrite, number, buffer->span(), lane));
    std::memset(buffer->data(), 0, kPiece);
    VHOST_RETURN_IF_ERROR(run(BlkOp::kRead, number, buffer->span(), lane));
    return check_contents({buffer->data(), kPiece}, number);
  }

  absl::StatusOr<std::string> identity() override { return client_->get_id(); }

  absl::StatusOr<uint32_t> leave_in_flight() override {
    for (uint32_t i = 0; i < kInFlight; ++i) {
      absl::StatusOr<DmaBuffer> buffer = memory_.allocate(kPiece, 512);
      if (!buffer.ok()) return buffer.status();
      left_.push_back(*std::move(buffer));
      VHOST_RETURN_IF_ERROR(
          submit(BlkOp::kRead, i, left_.back().span(), i % lanes()));
    }
    VHOST_RETURN_IF_ERROR(client_->kick());
    return kInFlight;
  }

 private:
  absl::Status submit(BlkOp op, uint64_t number, const DmaSpan& data,
                      uint32_t lane) {
    BlkRequest request;
    request.op = op;
    request.offset =
        number % (client_->config().capacity_bytes() / kPiece) * kPiece;
    request.buffers = std::span(&data, 1);
    return client_->submit(request, lane);
  }
  absl::Status run(BlkOp op, uint64_t number, const DmaSpan& data,
                   uint32_t lane) {
    VHOST_RETURN_IF_ERROR(submit(op, number, data, lane));
    std::array<BlkCompletion, 1> done;
    if (client_->wait(done) != 1) return absl::InternalError("no completion");
    return done[0].status;
  }

  std::unique_ptr<BlkClient> client_;
  DmaMemory& memory_;
  std::vector<DmaBuffer> left_;
};

// ---------------------------------------------------------------------------
// Network cards
// ---------------------------------------------------------------------------

// A broadcast of a protocol that is reserved for experiments: every card takes
// it, no kernel answers.
// Source: IEEE 802, "Local Experimental Ethertypes".
constexpr std::array<uint8_t, 14> kEthernet = {
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x88, 0xb5};
constexpr size_t kPayload = 500;

class NetTraffic final : public DriverTraffic {
 public:
  NetTraffic(std::unique_ptr<NetClient> client, VirtioDriver& driver,
             DriverBackend& backend, AddressSpace& memory)
      : client_(std::move(client)),
        driver_(driver),
        backend_(backend),
        memory_(memory) {}

  uint32_t lanes() const override { return client_->pairs(); }
  uint16_t requests_per_exchange() const override { return 1; }
  QueueIndex counted_queue() const override { return QueueIndex{1}; }

  absl::Status exchange(uint32_t lane, uint64_t number) override {
    VHOST_RETURN_IF_ERROR(send(lane, number));
    VHOST_RETURN_IF_ERROR(client_->kick());
    for (;;) {
      backend_.serve(driver_, memory_);
      if (!client_->wait(kDriverPatience)) {
        return absl::DeadlineExceededError(
            absl::StrCat("exchange ", number, ": no frame came back"));
      }
      VHOST_RETURN_IF_ERROR(client_->status());
      client_->poll_sent(sent_);
      const size_t count = client_->receive(received_);
      for (const NetFrame& frame : std::span(received_).first(count)) {
        if (!is_ours(frame.bytes)) continue;
        return check_contents(std::span(frame.bytes).subspan(kEthernet.size()),
                              number);
      }
    }
  }

  absl::StatusOr<uint32_t> leave_in_flight() override {
    for (uint32_t i = 0; i < kInFlight; ++i) {
      VHOST_RETURN_IF_ERROR(send(i % lanes(), i));
    }
    VHOST_RETURN_IF_ERROR(client_->kick());
    return kInFlight;
  }

 private:
  absl::Status send(uint32_t lane, uint64_t number) {
    std::vector<std::byte> frame = contents(number, kPayload);
    const auto header = std::as_bytes(std::span(kEthernet));
    frame.insert(frame.begin(), header.begin(), header.end());
    return client_->send(frame, number, lane);
  }
  // The kernel at the other end of a tap has frames of its own.
  static bool is_ours(std::span<const std::byte> frame) {
    return frame.size() == kEthernet.size() + kPayload &&
           std::memcmp(frame.data(), kEthernet.data(), kEthernet.size()) == 0;
  }

  std::unique_ptr<NetClient> client_;
  VirtioDriver& driver_;
  DriverBackend& backend_;
  AddressSpace& memory_;
  std::array<NetSent, 16> sent_;
  std::array<NetFrame, 16> received_;
};

// ---------------------------------------------------------------------------
// Rings
// ---------------------------------------------------------------------------

class RingTraffic final : public DriverTraffic {
 public:
  RingTraffic(std::vector<QueueHandle> queues, VirtioDriver& driver,
              DriverBackend& backend, AddressSpace& memory, TrafficWait wait)
      : queues_(std::move(queues)),
        driver_(driver),
        backend_(backend),
        memory_(memory),
        wait_(wait) {}

  uint32_t lanes() const override {
    return static_cast<uint32_t>(queues_.size());
  }
  uint16_t requests_per_exchange() const override { return 1; }

  absl::Status exchange(uint32_t lane, uint64_t number) override {
    absl::StatusOr<DmaBuffer> buffer = driver_.memory().allocate(2 * kPiece);
    if (!buffer.ok()) return buffer.status();
    const std::vector<std::byte> sent = contents(number, kPiece);
    std::memcpy(buffer->data(), sent.data(), kPiece);
    QueueHandle& queue = queues_[lane];
    VHOST_RETURN_IF_ERROR(submit(queue, *buffer, number));
    if (wait_ == TrafficWait::kInterrupt) {
      static_cast<void>(queue.take_signal());
      if (!queue.ring().enable_interrupts()) {
        return absl::InternalError("a completion before its request");
      }
    }
    VHOST_RETURN_IF_ERROR(queue.kick());
    backend_.serve(driver_, memory_);
    if (wait_ == TrafficWait::kInterrupt) {
      VHOST_RETURN_IF_ERROR(wait_for_signal(queue));
      queue.ring().disable_interrupts();
    }
    std::array<RingCompletion, 1> done;
    const absl::StatusOr<size_t> count = queue.ring().poll(done);
    if (!count.ok()) return count.status();
    if (*count != 1 || done[0].cookie != number || done[0].written != kPiece) {
      return absl::DataLossError(
          absl::StrCat("exchange ", number, ": not the completion of it"));
    }
    return check_contents({buffer->data() + kPiece, kPiece}, number);
  }

  absl::StatusOr<uint32_t> leave_in_flight() override {
    for (uint32_t i = 0; i < kInFlight; ++i) {
      absl::StatusOr<DmaBuffer> buffer = driver_.memory().allocate(2 * kPiece);
      if (!buffer.ok()) return buffer.status();
      left_.push_back(*std::move(buffer));
      QueueHandle& queue = queues_[i % lanes()];
      VHOST_RETURN_IF_ERROR(submit(queue, left_.back(), i));
      VHOST_RETURN_IF_ERROR(queue.kick());
    }
    return kInFlight;
  }

 private:
  static absl::Status submit(QueueHandle& queue, const DmaBuffer& buffer,
                             uint64_t number) {
    auto request = queue.ring().begin(2, number);
    if (!request.ok()) return request.status();
    VHOST_RETURN_IF_ERROR(request.add_readable(buffer.gpa(), kPiece));
    VHOST_RETURN_IF_ERROR(request.add_writable(buffer.gpa() + kPiece, kPiece));
    return request.submit();
  }
  static absl::Status wait_for_signal(const QueueHandle& queue) {
    using std::chrono::milliseconds;
    pollfd call = {queue.call_fd().get(), POLLIN, 0};
    const auto limit =
        std::chrono::duration_cast<milliseconds>(kDriverPatience);
    if (::poll(&call, 1, static_cast<int>(limit.count())) == 1 &&
        queue.take_signal()) {
      return absl::OkStatus();
    }
    return absl::DeadlineExceededError("no interrupt");
  }

  std::vector<QueueHandle> queues_;
  VirtioDriver& driver_;
  DriverBackend& backend_;
  AddressSpace& memory_;
  const TrafficWait wait_;
  std::vector<DmaBuffer> left_;
};

absl::StatusOr<std::unique_ptr<DriverTraffic>> make_blk(VirtioDriver& driver,
                                                        TrafficWait wait) {
  using enum BlkClient::WaitMode;
  BlkClient::Options options;
  options.wait_mode = wait == TrafficWait::kPoll ? kPoll : kSleep;
  options.depth = 8;
  options.stall_timeout = kDriverPatience;
  auto client = BlkClient::create(driver, options);
  if (!client.ok()) return client.status();
  return std::make_unique<BlkTraffic>(*std::move(client), driver.memory());
}

absl::StatusOr<std::unique_ptr<DriverTraffic>> make_net(VirtioDriver& driver,
                                                        DriverBackend& backend,
                                                        AddressSpace& memory,
                                                        TrafficWait wait) {
  using enum NetClient::WaitMode;
  NetClient::Options options;
  options.wait_mode = wait == TrafficWait::kPoll ? kPoll : kSleep;
  options.send_depth = 16;
  options.buffers = 16;
  auto client = NetClient::create(driver, options);
  if (!client.ok()) return client.status();
  return std::make_unique<NetTraffic>(*std::move(client), driver, backend,
                                      memory);
}

absl::StatusOr<std::unique_ptr<DriverTraffic>> make_ring(VirtioDriver& driver,
                                                         DriverBackend& backend,
                                                         AddressSpace& memory,
                                                         TrafficWait wait) {
  std::vector<QueueHandle> queues;
  for (uint32_t i = 0; i < driver.started().queues; ++i) {
    absl::StatusOr<QueueHandle> queue = driver.acquire(QueueIndex{i});
    if (!queue.ok()) return queue.status();
    queues.push_back(*std::move(queue));
  }
  return std::make_unique<RingTraffic>(std::move(queues), driver, backend,
                                       memory, wait);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DriverTraffic>> make_traffic(
    VirtioDriver& driver, DriverBackend& backend, AddressSpace& memory,
    TrafficWait wait) {
  switch (backend.device_class()) {
    case DriverClass::kBlk:
      return make_blk(driver, wait);
    case DriverClass::kNet:
      return make_net(driver, backend, memory, wait);
    case DriverClass::kRing:
      break;
  }
  return make_ring(driver, backend, memory, wait);
}

FeatureSet traffic_features(DriverClass device_class) {
  switch (device_class) {
    case DriverClass::kBlk:
      return kBlkWantedFeatures;
    case DriverClass::kNet:
      return kNetWantedFeatures;
    case DriverClass::kRing:
      break;
  }
  return {kFeatureVersion1, kFeatureEventIdx, kFeatureIndirectDesc};
}

uint32_t traffic_device_id(DriverClass device_class) {
  return device_class == DriverClass::kNet ? kDeviceIdNet : kDeviceIdBlock;
}

VirtioDriver::StopMode traffic_stop(DriverClass device_class) {
  using enum VirtioDriver::StopMode;
  return device_class == DriverClass::kBlk ? kDrain : kCancel;
}

}  // namespace vhost::testing
