// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/session.h"

#include <utility>

#include "tools/vhostctl/endpoint.h"

namespace vhost::ctl {

absl::StatusOr<std::unique_ptr<Session>> Session::create() {
  absl::StatusOr<std::unique_ptr<EpollEventLoop>> loop =
      EpollEventLoop::create();
  if (!loop.ok()) return loop.status();
  return std::unique_ptr<Session>(new Session(*std::move(loop)));
}

Session::Session(std::unique_ptr<EpollEventLoop> loop)
    : loop_(std::move(loop)),
      context_(*loop_, memory_),
      dma_(context_, memory_) {}

VirtioDriver::Options Session::driver_options(const Options& options) {
  VirtioDriver::Options out;
  out.name = "device";
  out.init_timeout = connect_timeout(options);
  out.start_timeout = operation_timeout(options);
  out.stop_timeout = options.timeout;
  out.config_timeout = options.timeout;
  out.own_loop = loop_.get();
  return out;
}

}  // namespace vhost::ctl
