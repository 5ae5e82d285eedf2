// SPDX-License-Identifier: Apache-2.0
#include "tests/vsock/vsock_guest.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

VirtioDriver::Options driver_options(const VsockGuest::Options& options,
                                     EpollEventLoop* loop) {
  VirtioDriver::Options out;
  out.name = "vsock";
  out.device_id = kDeviceIdVsock;
  out.max_queues = options.queues;
  out.config_size = options.config_size;
  out.init_timeout = kPatience;
  out.own_loop = loop;
  return out;
}

}  // namespace

VsockGuest::VsockGuest(std::unique_ptr<VhostOps> ops, Options options)
    : options_(std::move(options)),
      driver_(vm_.context, vm_.dma, std::move(ops),
              driver_options(options_, loop_.get())) {}

absl::Status VsockGuest::start() {
  VHOST_RETURN_IF_ERROR(driver_.reset(kVsockWantedFeatures).status());
  VHOST_RETURN_IF_ERROR(
      driver_
          .start(
              {.queues = 0, .fixed = options_.queues, .depth = options_.depth})
          .status());
  absl::StatusOr<std::unique_ptr<VsockClient>> client =
      VsockClient::create(driver_, options_.client);
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status VsockGuest::stop() {
  const auto stopped =
      driver_.stop(VirtioDriver::StopMode::kCancel, Duration(0));
  return stopped.ok() ? stopped->status : stopped.status();
}

bool VsockGuest::until(absl::FunctionRef<bool()> done) {
  const MonotonicTime deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    client_->poll();
    if (done()) return true;
    const MonotonicTime now = std::chrono::steady_clock::now();
    if (now >= deadline || !client_->status().ok()) return false;
    client_->wait(deadline - now);
  }
}

absl::StatusOr<VsockStream> VsockGuest::connect(uint32_t port, uint64_t cid) {
  const absl::StatusOr<VsockStream> stream = client_->connect({cid, port});
  if (!stream.ok()) return stream.status();
  const bool answered =
      until([&] { return info(*stream).state != VsockState::kConnecting; });
  if (!answered) return absl::DeadlineExceededError("no answer came");
  if (info(*stream).state == VsockState::kClosed) return info(*stream).status;
  return *stream;
}

absl::StatusOr<std::vector<std::byte>> VsockGuest::echo(
    VsockStream stream, std::span<const std::byte> bytes) {
  std::vector<std::byte> back(bytes.size());
  size_t sent = 0;
  size_t came = 0;
  absl::Status status;
  const bool over = until([&] {
    const auto taken = client_->send(stream, bytes.subspan(sent));
    status.Update(taken.status());
    sent += taken.value_or(0);
    const auto got = client_->receive(stream, std::span(back).subspan(came));
    status.Update(got.status());
    came += got.value_or(0);
    return !status.ok() || came == back.size();
  });
  VHOST_RETURN_IF_ERROR(status);
  if (!over) return absl::DeadlineExceededError("bytes are missing");
  return back;
}

std::vector<std::byte> some_bytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(size);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random());
  return out;
}

}  // namespace vhost::testing
