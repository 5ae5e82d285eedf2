// SPDX-License-Identifier: Apache-2.0
#include "tests/net/net_port.h"

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

VirtioDriver::Options driver_options(const NetPort::Options& options,
                                     EpollEventLoop* loop) {
  VirtioDriver::Options out;
  out.name = "net";
  out.device_id = kDeviceIdNet;
  out.max_queues = 2 * options.pairs;
  out.config_size = options.config_size;
  out.init_timeout = kPatience;
  out.stop_timeout = kPatience;
  out.own_loop = loop;
  return out;
}

}  // namespace

NetPort::NetPort(TestVm& vm, EpollEventLoop* loop, VhostUserAddress address,
                 Options options)
    : options_(std::move(options)),
      driver_(vm.context, vm.dma, make_vhost_user_ops(std::move(address)),
              driver_options(options_, loop)) {}

absl::Status NetPort::start() {
  VHOST_RETURN_IF_ERROR(reset());
  return run();
}

absl::Status NetPort::reset() {
  return driver_.reset(options_.wanted).status();
}

absl::Status NetPort::run() {
  VHOST_RETURN_IF_ERROR(driver_
                            .start({.queues = 2 * options_.pairs - 2,
                                    .fixed = 2,
                                    .depth = options_.depth})
                            .status());
  absl::StatusOr<std::unique_ptr<NetClient>> client =
      NetClient::create(driver_, options_.client);
  if (!client.ok()) return client.status();
  client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status NetPort::stop() {
  const auto stopped =
      driver_.stop(VirtioDriver::StopMode::kCancel, Duration(0));
  return stopped.ok() ? stopped->status : stopped.status();
}

absl::Status TwoPorts::start() {
  VHOST_RETURN_IF_ERROR(annotate(a.start(), "port a"));
  return annotate(b.start(), "port b");
}

absl::Status TwoPorts::stop() {
  const absl::Status first = a.stop();
  const absl::Status second = b.stop();
  return first.ok() ? second : first;
}

}  // namespace vhost::testing
