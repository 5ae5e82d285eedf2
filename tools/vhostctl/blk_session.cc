// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/blk_session.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/endpoint.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// A header, the data and a status byte.
constexpr uint32_t kDescriptorsPerRequest = 3;
constexpr uint32_t kSmallestRing = 64;

constexpr uint64_t kLargestRequest = uint64_t{64} << 10;
constexpr uint64_t kSmallestRequest = uint64_t{4} << 10;
constexpr uint64_t kMostBuffers = uint64_t{256} << 20;  // Bytes of them all.

// Between two tries of a first start.
constexpr Duration kStartPause = std::chrono::milliseconds(20);

VirtioDriver::Options blk_driver_options(Session& session, Outages& outages,
                                         const Options& options) {
  VirtioDriver::Options out = session.driver_options(options);
  if (options.reconnect) {
    out.reconnect.emplace().time = options.reconnect_timeout;
    out.events = &outages;
  }
  out.device_id = kDeviceIdBlock;
  out.max_queues = options.queues;
  out.config_size = kBlkConfigSize;
  return out;
}

}  // namespace

BlkSession::BlkSession(std::unique_ptr<Session> session,
                       std::unique_ptr<VhostOps> ops, const Options& options)
    : session_(std::move(session)),
      driver_(session_->context(), session_->memory(), std::move(ops),
              blk_driver_options(*session_, outages_, options)),
      window_(options.queues * options.depth),
      timeout_(options.timeout),
      reconnect_(options.reconnect) {}

absl::StatusOr<std::unique_ptr<BlkSession>> BlkSession::open(
    const Options& options) {
  absl::StatusOr<std::unique_ptr<VhostOps>> ops = make_ops(options);
  if (!ops.ok()) return ops.status();
  absl::StatusOr<std::unique_ptr<Session>> session = Session::create();
  if (!session.ok()) return session.status();
  std::unique_ptr<BlkSession> out(
      new BlkSession(*std::move(session), *std::move(ops), options));
  VHOST_RETURN_IF_ERROR(out->start(options));
  return out;
}

absl::Status BlkSession::start(const Options& options) {
  const MonotonicTime deadline =
      std::chrono::steady_clock::now() + options.timeout;
  while (true) {
    const absl::Status status = start_once(options);
    const bool died = absl::IsUnavailable(status) ||
                      driver_.device().state() == DeviceState::kBroken;
    if (status.ok() || !options.reconnect || !died ||
        std::chrono::steady_clock::now() >= deadline) {
      return status;
    }
    std::this_thread::sleep_for(kStartPause);
  }
}

absl::Status BlkSession::start_once(const Options& options) {
  const auto agreed = driver_.reset(kBlkWantedFeatures);
  if (!agreed.ok()) return agreed.status();
  const bool indirect = driver_.has(kFeatureIndirectDesc);
  const uint32_t descriptors =
      options.depth * (indirect ? 1 : kDescriptorsPerRequest);
  const auto started = driver_.start(
      {.queues = options.queues,
       .depth = std::bit_ceil(std::max(descriptors, kSmallestRing)),
       .indirect_entries = indirect ? kDescriptorsPerRequest : 0});
  if (!started.ok()) return started.status();
  if (started->queues < options.queues) {
    return close(absl::InvalidArgumentError(absl::StrCat(
        "--queues ", options.queues, ": the device has ", started->queues)));
  }
  absl::StatusOr<std::unique_ptr<BlkClient>> client =
      BlkClient::create(driver_, {.wait_mode = BlkClient::WaitMode::kSleep,
                                  .depth = options.depth,
                                  .stall_timeout = options.timeout});
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status BlkSession::close(const absl::Status& result) {
  // A device that was given up is not asked for anything any more.
  if (client_ != nullptr && !client_->status().ok()) {
    return result.ok() ? client_->status() : result;
  }
  const auto stopped = driver_.stop(VirtioDriver::StopMode::kDrain, timeout_);
  if (!result.ok()) return result;
  const bool died = stopped.ok() && absl::IsUnavailable(stopped->status);
  if (reconnect_ && died) return absl::OkStatus();
  return stopped.ok() ? stopped->status : stopped.status();
}

absl::Status BlkSession::flush() {
  BlkRequest request;
  request.op = BlkOp::kFlush;
  return annotate(client_->run(request), "flush");
}

uint64_t BlkSession::request_size() const {
  uint64_t size = std::clamp(std::bit_floor(kMostBuffers / window_),
                             kSmallestRequest, kLargestRequest);
  const uint64_t limit = client_->config().size_max;
  if (limit >= kBlkSectorSize && limit < size) {
    size = limit / kBlkSectorSize * kBlkSectorSize;
  }
  return size;
}

}  // namespace vhost::ctl
