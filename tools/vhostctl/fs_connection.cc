// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/fs_connection.h"

#include <utility>

#include "tools/vhostctl/endpoint.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr uint32_t kQueues = 1;
constexpr uint32_t kRing = 64;
constexpr uint32_t kDepth = 8;

// No configuration space: the tag in it is the VMM's, and few back-ends have
// one.
VirtioDriver::Options fs_driver_options(Session& session,
                                        const Options& options) {
  VirtioDriver::Options out = session.driver_options(options);
  out.device_id = kDeviceIdFs;
  out.max_queues = kFsFixedQueues + kQueues;
  return out;
}

}  // namespace

FsConnection::FsConnection(std::unique_ptr<Session> session,
                           std::unique_ptr<VhostOps> ops,
                           const Options& options)
    : session_(std::move(session)),
      driver_(session_->context(), session_->memory(), std::move(ops),
              fs_driver_options(*session_, options)),
      timeout_(options.timeout) {}

absl::StatusOr<std::unique_ptr<FsConnection>> FsConnection::open(
    const Options& options) {
  absl::StatusOr<std::unique_ptr<VhostOps>> ops = make_ops(options);
  if (!ops.ok()) return ops.status();
  absl::StatusOr<std::unique_ptr<Session>> session = Session::create();
  if (!session.ok()) return session.status();
  std::unique_ptr<FsConnection> out(
      new FsConnection(*std::move(session), *std::move(ops), options));
  VHOST_RETURN_IF_ERROR(out->start());
  return out;
}

absl::Status FsConnection::start() {
  VHOST_RETURN_IF_ERROR(driver_.reset(kFsWantedFeatures).status());
  VHOST_RETURN_IF_ERROR(
      driver_
          .start({.queues = kQueues, .fixed = kFsFixedQueues, .depth = kRing})
          .status());
  absl::StatusOr<std::unique_ptr<FsClient>> client =
      FsClient::create(driver_, {.depth = kDepth, .stall_timeout = timeout_});
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status FsConnection::close(const absl::Status& result) {
  // A device that was given up is not asked for anything any more.
  if (!client_->status().ok()) {
    return result.ok() ? client_->status() : result;
  }
  const auto stopped = driver_.stop(VirtioDriver::StopMode::kDrain, timeout_);
  if (!result.ok()) return result;
  return stopped.ok() ? stopped->status : stopped.status();
}

}  // namespace vhost::ctl
