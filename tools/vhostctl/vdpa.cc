// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/vdpa.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/device_config.h"
#include "tools/vhostctl/info.h"
#include "tools/vhostctl/locked_memory.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_vdpa.h"

namespace vhost::ctl {
namespace {

Json backend_feature_names(uint64_t features) {
  Json out = Json::array();
  for (unsigned bit = 0; bit < 64; ++bit) {
    if ((features >> bit & 1) != 0) {
      out.push_back(vdpa_backend_feature_name(bit));
    }
  }
  return out;
}

// The configuration space, or what a device has of it.
absl::StatusOr<Json> read_config(const Options& options,
                                 const VhostVdpaInfo& info) {
  const uint32_t size =
      std::min(config_size(info.device_id, info.features), info.config_size);
  if (size == 0) return Json::object();
  const std::unique_ptr<VhostOps> ops = make_vdpa_ops(options);
  const MonotonicTime deadline =
      std::chrono::steady_clock::now() + options.timeout;
  BatchResult result;
  // Completes inside submit().
  const Pending pending =
      ops->submit(Open{.config_size = size}, deadline,
                  [&result](BatchResult got) { result = std::move(got); });
  if (!result.status.ok()) return result.status;
  return decode_config(info.device_id, info.features, result.bytes);
}

}  // namespace

std::unique_ptr<VhostOps> make_vdpa_ops(const Options& options) {
  raise_locked_memory();
  VhostVdpaOptions vdpa;
  vdpa.device = OpenVdpaDevice{*options.vdpa};
  return make_vhost_vdpa_ops(std::move(vdpa));
}

absl::Status run_vdpa_info(const Options& options) {
  const absl::StatusOr<VhostVdpaInfo> info =
      read_vhost_vdpa_info(OpenVdpaDevice{*options.vdpa});
  if (!info.ok()) return info.status();
  if (options.device_id.value_or(info->device_id) != info->device_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device: it is ", device_name(info->device_id)));
  }
  absl::StatusOr<Json> config = read_config(options, *info);
  if (!config.ok()) return annotate(config.status(), "configuration");
  Json document = Json::object();
  document["device"] = device_name(info->device_id);
  document["device_id"] = info->device_id;
  document["features"] = feature_names(info->device_id, info->features);
  document["backend_features"] = backend_feature_names(info->backend_features);
  document["queues"] = info->queues;
  document["max_ring_size"] = info->max_ring_size;
  document["groups"] = info->groups;
  document["address_spaces"] = info->address_spaces;
  Json group_of = Json::object();
  for (size_t i = 0; i < info->queue_groups.size(); ++i) {
    group_of[absl::StrCat(i)] = info->queue_groups[i];
  }
  document["group_of_queue"] = std::move(group_of);
  document["iova_first"] = info->iova_first;
  document["iova_last"] = info->iova_last;
  document["config_size"] = info->config_size;
  document["config"] = *std::move(config);
  return print_info(options, document);
}

}  // namespace vhost::ctl
