// SPDX-License-Identifier: Apache-2.0

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/device_config.h"
#include "tools/vhostctl/endpoint.h"
#include "tools/vhostctl/info.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/vdpa.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vhost_user.h"

namespace vhost::ctl {
namespace {

// Hears what the back-end says by itself, which changes nothing here.
class SilentSink final : public BackendSink {
 public:
  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue) override { return absl::OkStatus(); }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status&) override {}
  BackendServices& services() override { return services_; }

 private:
  BackendServices services_;
};

// Runs one verb to its end.
BatchResult run_verb(VhostOps& ops, Verb verb, Duration timeout) {
  const MonotonicTime deadline = std::chrono::steady_clock::now() + timeout;
  std::optional<BatchResult> result;
  const Pending pending =
      ops.submit(std::move(verb), deadline,
                 [&result](BatchResult got) { result = std::move(got); });
  // The back-end ends the verb itself when `deadline` has passed.
  while (!result.has_value()) ops.pump(deadline);
  return *std::move(result);
}

std::vector<std::string> protocol_feature_names(uint64_t features) {
  std::vector<std::string> out;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if ((features >> bit & 1) != 0) out.push_back(protocol_feature_name(bit));
  }
  return out;
}

void append_text(const Json& value, absl::string_view indent,
                 std::string& out) {
  for (const auto& [name, member] : value.items()) {
    if (member.is_object() && member.empty()) continue;
    absl::StrAppend(&out, indent, name, ":");
    if (member.is_object()) {
      absl::StrAppend(&out, "\n");
      append_text(member, absl::StrCat(indent, "  "), out);
      continue;
    }
    std::string text;
    if (member.is_array()) {
      for (const Json& item : member) {
        absl::StrAppend(&text, " ", item.get_ref<const std::string&>());
      }
    } else {
      const bool is_text = member.is_string();
      absl::StrAppend(
          &text, " ",
          is_text ? member.get_ref<const std::string&>() : member.dump());
    }
    absl::StrAppend(&out, printable(text), "\n");
  }
}

// The kernel's device without what it would be connected to.
std::unique_ptr<VhostOps> make_kernel_ops(const std::string& path,
                                          uint32_t device) {
  if (device == kDeviceIdVsock) {
    return make_vhost_vsock_ops({.device = OpenDevice{path}});
  }
  if (device == kDeviceIdScsi) {
    VhostScsiOptions scsi;
    scsi.device = OpenDevice{path};
    return make_vhost_scsi_ops(std::move(scsi));
  }
  VhostNetOptions net;
  net.path = path;
  // Nobody attaches the tap of a device that is only asked.
  net.taps = {FdRef()};
  return make_vhost_net_ops(std::move(net));
}

}  // namespace

absl::Status print_info(const Options& options, const Json& document) {
  if (options.json) return print_json(document);
  std::string text;
  append_text(document, "", text);
  return print_text(text);
}

absl::Status run_info(const Options& asked) {
  if (asked.vdpa.has_value()) return run_vdpa_info(asked);
  Options options = asked;
  absl::StatusOr<std::unique_ptr<VhostOps>> made;
  if (options.kernel.has_value()) {
    const absl::StatusOr<uint32_t> device = kernel_device(options);
    if (!device.ok()) return device.status();
    options.device_id = *device;
    made = make_kernel_ops(*options.kernel, *device);
  } else {
    made = make_ops(options);
  }
  if (!made.ok()) return made.status();
  VhostOps& ops = **made;
  SilentSink sink;
  ops.attach(nullptr, &sink);
  VHOST_RETURN_IF_ERROR(run_verb(ops, Open{}, connect_timeout(options)).status);

  const BackendTraits& traits = ops.traits();
  const uint32_t device = options.device_id.value_or(guess_device(traits));
  const uint32_t size = config_size(device, traits.features);
  Json config = Json::object();
  if (traits.has_config && size > 0) {
    const BatchResult got = run_verb(ops, GetConfig{.offset = 0, .size = size},
                                     operation_timeout(options));
    VHOST_RETURN_IF_ERROR(annotate(got.status, "configuration"));
    config = decode_config(device, traits.features, got.bytes);
  }
  Json document = Json::object();
  document["device"] = device_name(device);
  document["features"] = feature_names(device, traits.features);
  if (!options.kernel.has_value()) {
    document["protocol_features"] =
        protocol_feature_names(traits.offered_protocol_features);
  } else if (device == kDeviceIdScsi) {
    const absl::StatusOr<int> version =
        vhost_scsi_abi_version(OpenDevice{*options.kernel});
    if (!version.ok()) return version.status();
    document["abi_version"] = *version;
  }
  document["queues"] = traits.max_queues;
  document["slots"] = traits.max_memory_slots;
  document["config"] = std::move(config);
  return print_info(options, document);
}

}  // namespace vhost::ctl
