// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/net_guest.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vhost_log.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kBufferSize = 2048;

// Taps of an earlier guest may not be gone yet.
std::string next_tap_name() {
  static int count = 0;
  return absl::StrCat("vt", count++);
}

}  // namespace

class NetGuest::Iommu final : public BackendServices {
 public:
  std::vector<uint64_t> asked;
  absl::StatusOr<IotlbEntry> translate(uint64_t iova, IotlbAccess) override {
    asked.push_back(iova);
    const uint64_t page = iova & ~(kPage - 1);
    if (page < kShift) return absl::NotFoundError("not mapped");
    return IotlbEntry{page, kPage, page - kShift, IotlbAccess::kBoth};
  }
};

NetGuest::NetGuest(Options options)
    : options_(options),
      loop_(*EpollEventLoop::create()),
      context_(std::make_unique<VhostContext>(*loop_, memory_)),
      device_({.device_id = kDeviceIdNet,
               .queues = 2 * options.pairs,
               .num = kDepth}),
      iommu_(std::make_unique<Iommu>()) {
  EXPECT_NE(add_memory(memory_, 0, kRam), nullptr);
  VhostNetOptions net;
  for (uint32_t i = 0; i < options.pairs; ++i) {
    auto tap = Tap::create(next_tap_name());
    EXPECT_TRUE(tap.ok()) << tap.status();
    taps_.push_back(*std::move(tap));
    net.taps.push_back(taps_.back()->fd());
  }
  place_rings();
  VhostDev::Options dev;
  dev.name = "net";
  dev.queues = QueueMap::identity(2 * options.pairs);
  dev.mask_mode = options.mask_mode;
  dev_ = std::make_unique<VhostDev>(
      *context_, make_vhost_net_ops(std::move(net)), device_, notifiers_,
      events_, iommu_.get(), std::move(dev));
}

NetGuest::~NetGuest() { dev_.reset(); }

uint64_t NetGuest::seen_at(uint64_t gpa) const {
  return options_.iommu ? gpa + kShift : gpa;
}

void NetGuest::place_rings() {
  device_.iommu = options_.iommu;
  for (uint32_t i = 0; i < 2 * options_.pairs; ++i) {
    device_.queues[i].desc_gpa = seen_at(ring_page(i, 0) * kPage);
    device_.queues[i].avail_gpa = seen_at(ring_page(i, 1) * kPage);
    device_.queues[i].used_gpa = seen_at(used_page(i) * kPage);
  }
}

absl::Status NetGuest::set_iommu(bool on) {
  options_.iommu = on;
  place_rings();
  dev_->clear_acked_features();
  return accept_features();
}

absl::Status NetGuest::accept_features() {
  FeatureSet accepted = {kFeatureVersion1};
  accepted.set(kFeatureAccessPlatform, options_.iommu);
  return dev_->ack_features(accepted, accepted);
}

absl::Status NetGuest::run() {
  VHOST_RETURN_IF_ERROR(init());
  return start();
}

absl::Status NetGuest::init() {
  VHOST_RETURN_IF_ERROR(dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kPatience));
  return accept_features();
}

SplitVirtqueue::Options NetGuest::ring_options(uint32_t queue) {
  std::byte* parts = memory_.translate(ring_page(queue, 0) * kPage, 3 * kPage);
  SplitVirtqueue::Options ring;
  ring.num = kDepth;
  ring.desc = parts;
  ring.avail = parts + kPage;
  ring.used = parts + 2 * kPage;
  return ring;
}

absl::Status NetGuest::start() {
  rings_.clear();
  next_slot_.assign(2 * options_.pairs, 0);
  for (uint32_t i = 0; i < 2 * options_.pairs; ++i) {
    const SplitVirtqueue::Options ring = ring_options(i);
    std::memset(ring.desc, 0, 3 * kPage);
    auto made = SplitVirtqueue::create(ring);
    if (!made.ok()) return made.status();
    rings_.push_back(*std::move(made));
  }
  return dev_->run([this](Completion done) { dev_->start(std::move(done)); },
                   kPatience);
}

absl::Status NetGuest::stop() {
  return dev_->run(
      [this](Completion done) {
        dev_->stop(StopReason::kGuestReset, std::move(done));
      },
      kPatience);
}

absl::StatusOr<std::string> NetGuest::save() const {
  DriverState out;
  out.features = {kFeatureVersion1};
  out.fixed = 2;
  out.depth = kDepth;
  for (uint32_t i = 0; i < rings_.size(); ++i) {
    absl::StatusOr<SplitRingState> ring = rings_[i]->save();
    if (!ring.ok()) return ring.status();
    out.queues.push_back({.position = dev_->queue_base(QueueIndex{i}),
                          .ring_gpa = ring_page(i, 0) * kPage,
                          .ring = *std::move(ring)});
  }
  return encode(out);
}

absl::Status NetGuest::load(absl::string_view state) {
  const absl::StatusOr<DriverState> driver = decode_driver_state(state);
  if (!driver.ok()) return driver.status();
  if (driver->queues.size() != device_.queues.size()) {
    return absl::InvalidArgumentError("a driver of other queues");
  }
  rings_.clear();
  next_slot_.clear();
  for (uint32_t i = 0; i < driver->queues.size(); ++i) {
    const SplitRingState& ring = driver->queues[i].ring;
    auto made = SplitVirtqueue::restore(ring_options(i), ring);
    if (!made.ok()) return made.status();
    rings_.push_back(*std::move(made));
    // Each request takes one.
    next_slot_.push_back(ring.submitted % kDepth);
  }
  return absl::OkStatus();
}

void NetGuest::turn() { EXPECT_TRUE(loop_->run_once(Duration::zero()).ok()); }

absl::Status NetGuest::submit(uint32_t queue, uint64_t gpa, uint32_t size,
                              bool write) {
  SplitVirtqueue& ring = *rings_[queue];
  auto request = ring.begin(1, gpa);
  VHOST_RETURN_IF_ERROR(write ? request.add_writable(seen_at(gpa), size)
                              : request.add_readable(seen_at(gpa), size));
  VHOST_RETURN_IF_ERROR(request.submit());
  if (ring.publish()) notifiers_.kick(QueueIndex{queue});
  return absl::OkStatus();
}

absl::Status NetGuest::send(uint32_t pair, std::span<const std::byte> frame) {
  const uint32_t queue = 2 * pair + 1;
  const uint64_t gpa = buffer_gpa(queue, next_slot_[queue]++ % kDepth);
  std::byte* buffer = memory_.translate(gpa, kBufferSize);
  std::memset(buffer, 0, kHeader);
  std::memcpy(buffer + kHeader, frame.data(), frame.size());
  VHOST_RETURN_IF_ERROR(
      submit(queue, gpa, static_cast<uint32_t>(kHeader + frame.size()), false));
  std::array<RingCompletion, 1> done;
  absl::Status status = absl::DeadlineExceededError("frame not taken");
  turn_until([&] {
    const absl::StatusOr<size_t> count = rings_[queue]->poll(done);
    if (count.ok() && *count == 0) return false;
    status = count.status();
    return true;
  });
  return status;
}

absl::Status NetGuest::offer(uint32_t pair, uint32_t count) {
  const uint32_t queue = 2 * pair;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t slot = next_slot_[queue]++ % kDepth;
    VHOST_RETURN_IF_ERROR(offer_at(pair, buffer_gpa(queue, slot)));
  }
  return absl::OkStatus();
}

absl::Status NetGuest::offer_at(uint32_t pair, uint64_t gpa) {
  return submit(2 * pair, gpa, kBufferSize, true);
}

absl::StatusOr<std::optional<Frame>> NetGuest::poll(uint32_t pair) {
  std::array<RingCompletion, 1> done;
  const absl::StatusOr<size_t> count = rings_[2 * pair]->poll(done);
  if (!count.ok()) return count.status();
  if (*count == 0) return std::nullopt;
  const uint32_t size = done[0].written;
  const std::byte* buffer = memory_.translate(done[0].cookie, size);
  if (size < kHeader || buffer == nullptr) {
    return absl::DataLossError(absl::StrCat(size, " bytes arrived"));
  }
  return Frame(buffer + kHeader, buffer + size);
}

absl::StatusOr<Frame> NetGuest::receive(uint32_t pair) {
  absl::StatusOr<Frame> out = absl::DeadlineExceededError("no frame came");
  turn_until([&] {
    absl::StatusOr<std::optional<Frame>> got = poll(pair);
    if (got.ok() && !got->has_value()) return false;
    if (got.ok()) {
      out = **std::move(got);
    } else {
      out = got.status();
    }
    return true;
  });
  return out;
}

const std::vector<uint64_t>& NetGuest::translated() const {
  return iommu_->asked;
}

NetGuest::Pages NetGuest::harvest() {
  Pages out;
  DirtyPages sink([&out](uint64_t page) { out.insert(page); });
  context_->log().harvest_all(sink);
  return out;
}

}  // namespace vhost::testing
