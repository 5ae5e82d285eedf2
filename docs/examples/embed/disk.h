// SPDX-License-Identifier: Apache-2.0
#ifndef DOCS_EXAMPLES_EMBED_DISK_H_
#define DOCS_EXAMPLES_EMBED_DISK_H_

#include <absl/status/status.h>
#include <vhostdev/features.h>
#include <vhostdev/status.h>
#include <vhostdev/vhost_context.h>
#include <vhostdev/vhost_dev.h>
#include <vhostdev/vhost_user.h>

#include <string>
#include <utility>

#include "vm_disk.h"

// [disk]
class Disk {
 public:
  Disk(vhost::VhostContext& vm, const std::string& socket, VmDisk& device)
      : dev_(vm, vhost::make_vhost_user_ops(vhost::ConnectTo{socket}), device,
             device, device, /*services=*/nullptr, options()) {}

  void plug(vhost::Completion done) { dev_.init(std::move(done)); }

  // The guest's driver set DRIVER_OK, having accepted `features`.
  void driver_ok(vhost::FeatureSet features, vhost::Completion done) {
    const absl::Status status = dev_.ack_features(features, features);
    status.ok() ? dev_.start(std::move(done)) : done(status);
  }

  void pause(vhost::Completion done) {
    dev_.stop(vhost::StopReason::kVmPause, std::move(done));
  }

 private:
  static vhost::VhostDev::Options options() {
    vhost::VhostDev::Options options;
    options.name = "disk0";
    options.queues = vhost::QueueMap::identity(4);
    options.config_size = 60;
    return options;
  }

  vhost::VhostDev dev_;
};
// [end]

#endif  // DOCS_EXAMPLES_EMBED_DISK_H_
