// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/log_guest.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <thread>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kRingPages = 4;  // Descriptors, available, used, a gap.

uint64_t ring_gpa(uint32_t queue) {
  return LogGuest::kRings + queue * kRingPages * kPage;
}

}  // namespace

LogGuest::LogGuest(uint32_t device_id, uint32_t queues,
                   VhostUserAddress address)
    : loop_(*EpollEventLoop::create()),
      context_(std::make_unique<VhostContext>(*loop_, memory_)),
      device_({.device_id = device_id, .queues = queues, .num = kDepth}) {
  EXPECT_NE(add_memory(memory_, 0, kRam), nullptr);
  for (uint32_t i = 0; i < queues; ++i) {
    VirtqueueConfig& queue = device_.queues[i];
    queue.desc_gpa = ring_gpa(i);
    queue.avail_gpa = ring_gpa(i) + kPage;
    queue.used_gpa = ring_gpa(i) + 2 * kPage;
  }
  VhostDev::Options options;
  options.name = "peer";
  options.queues = QueueMap::identity(queues);
  dev_ = std::make_unique<VhostDev>(
      *context_, make_vhost_user_ops(std::move(address)), device_, notifiers_,
      events_, nullptr, std::move(options));
}

absl::Status LogGuest::init() {
  VHOST_RETURN_IF_ERROR(dev_->run(
      [this](Completion done) { dev_->init(std::move(done)); }, kPatience));
  const FeatureSet accepted = {kFeatureVersion1};
  return dev_->ack_features(accepted, accepted);
}

absl::Status LogGuest::start() {
  rings_.clear();
  for (const VirtqueueConfig& queue : device_.queues) {
    std::memset(at(queue.desc_gpa), 0, 3 * kPage);
    SplitVirtqueue::Options options;
    options.num = kDepth;
    options.desc = at(queue.desc_gpa);
    options.avail = at(queue.avail_gpa);
    options.used = at(queue.used_gpa);
    auto ring = SplitVirtqueue::create(options);
    if (!ring.ok()) return ring.status();
    rings_.push_back(*std::move(ring));
  }
  return dev_->run([this](Completion done) { dev_->start(std::move(done)); },
                   kPatience);
}

absl::Status LogGuest::stop() {
  return dev_->run(
      [this](Completion done) {
        dev_->stop(StopReason::kMigration, std::move(done));
      },
      kPatience);
}

absl::Status LogGuest::log_on() {
  VHOST_RETURN_IF_ERROR(context_->listener().log_global_start());
  return context_->run_until_log_settled(kPatience);
}

absl::Status LogGuest::plug_far() {
  if (add_memory(memory_, kFar, 16 * kPage) == nullptr) {
    return absl::ResourceExhaustedError("no memory");
  }
  VHOST_RETURN_IF_ERROR(context_->run_until_memory_settled(kPatience));
  return context_->run_until_log_settled(kPatience);
}

absl::Status LogGuest::offer(uint32_t queue, std::span<const Part> parts) {
  SplitVirtqueue& ring = *rings_[queue];
  auto request = ring.begin(static_cast<uint32_t>(parts.size()), 0);
  for (const Part& part : parts) {
    VHOST_RETURN_IF_ERROR(part.writable
                              ? request.add_writable(part.gpa, part.size)
                              : request.add_readable(part.gpa, part.size));
  }
  VHOST_RETURN_IF_ERROR(request.submit());
  if (ring.publish()) notifiers_.kick(QueueIndex{queue});
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> LogGuest::complete(uint32_t queue) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    std::array<RingCompletion, 1> done;
    const absl::StatusOr<size_t> count = rings_[queue]->poll(done);
    if (!count.ok()) return count.status();
    if (*count == 1) return done[0].written;
    std::this_thread::yield();
  }
  return absl::DeadlineExceededError("nothing completed");
}

absl::StatusOr<uint32_t> LogGuest::request(uint32_t queue,
                                           std::span<const Part> parts) {
  VHOST_RETURN_IF_ERROR(offer(queue, parts));
  return complete(queue);
}

uint64_t LogGuest::used_page(uint32_t queue) const {
  return device_.queues[queue].used_gpa / kPage;
}

LogGuest::Pages LogGuest::harvest() {
  Pages out;
  DirtyPages sink([&out](uint64_t page) { out.insert(page); });
  context_->log().harvest_all(sink);
  return out;
}

}  // namespace vhost::testing
