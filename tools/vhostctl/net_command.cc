// SPDX-License-Identifier: Apache-2.0

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/endpoint.h"
#include "tools/vhostctl/net_echo.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/session.h"
#include "tools/vhostctl/tap_port.h"
#include "vhostdev/net_client.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_kernel.h"

namespace vhost::ctl {
namespace {

VirtioDriver::Options net_driver_options(Session& session,
                                         const Options& options,
                                         const char* name) {
  VirtioDriver::Options out = session.driver_options(options);
  out.name = name;
  out.device_id = kDeviceIdNet;
  out.max_queues = 2;
  return out;
}

// One network device, up and running.
class Port {
 public:
  Port(Session& session, std::unique_ptr<VhostOps> ops, const Options& options,
       const char* name)
      : driver_(session.context(), session.memory(), std::move(ops),
                net_driver_options(session, options, name)) {}

  absl::Status start() {
    // One pair, and no control queue to ask for more.
    const FeatureSet wanted =
        kNetWantedFeatures - FeatureSet{kNetFeatureMq, kNetFeatureCtrlVq};
    VHOST_RETURN_IF_ERROR(driver_.reset(wanted).status());
    VHOST_RETURN_IF_ERROR(
        driver_.start({.queues = 0, .fixed = 2, .depth = 128}).status());
    absl::StatusOr<std::unique_ptr<NetClient>> client =
        NetClient::create(driver_, {.wait_mode = NetClient::WaitMode::kSleep});
    if (!client.ok()) return client.status();
    client_ = *std::move(client);
    return absl::OkStatus();
  }

  // A device that was given up is not asked for anything any more.
  absl::Status stop() {
    if (client_ == nullptr || !client_->status().ok()) return absl::OkStatus();
    const auto stopped =
        driver_.stop(VirtioDriver::StopMode::kCancel, Duration(0));
    return stopped.ok() ? stopped->status : stopped.status();
  }

  NetClient& client() { return *client_; }

 private:
  VirtioDriver driver_;
  std::unique_ptr<NetClient> client_;
};

absl::Status print(const Options& options, const EchoCounts& counts,
                   double seconds) {
  const auto both = static_cast<double>(counts.arrived + counts.returned);
  if (!options.json) {
    return print_text(absl::StrFormat(
        "sent:     %u frames\n"
        "arrived:  %u at port b\n"
        "returned: %u to port a\n"
        "damaged:  %u, repeated %u, not ours %u\n"
        "speed:    %.0f frames/s, %s/s\n",
        counts.sent, counts.arrived, counts.returned, counts.damaged,
        counts.repeated, counts.foreign, both / seconds,
        human_bytes(static_cast<uint64_t>(static_cast<double>(counts.bytes) /
                                          seconds))));
  }
  Json document = Json::object();
  document["sent"] = counts.sent;
  document["arrived"] = counts.arrived;
  document["returned"] = counts.returned;
  document["damaged"] = counts.damaged;
  document["repeated"] = counts.repeated;
  document["foreign"] = counts.foreign;
  document["bytes"] = counts.bytes;
  document["seconds"] = seconds;
  return print_json(document);
}

NetEcho::Options echo_options(const Options& options, MonotonicTime begun) {
  return {.frames = options.frames,
          .seed = static_cast<uint64_t>(begun.time_since_epoch().count()),
          .timeout = options.timeout};
}

double seconds_since(MonotonicTime begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun)
      .count();
}

// What came of an echo, once its ports are stopped.
absl::Status conclude(const Options& options, const NetEcho& echo,
                      absl::Status result, double seconds) {
  if (result.ok() && echo.counts().repeated != 0) {
    result = absl::DataLossError(
        absl::StrCat(echo.counts().repeated, " frames came more than once"));
  }
  const absl::Status printed = print(options, echo.counts(), seconds);
  return result.ok() ? printed : result;
}

// Between two back-ends.
absl::Status echo_between_sockets(Session& session, const Options& options) {
  Options second = options;
  second.socket = options.socket2;
  absl::StatusOr<std::unique_ptr<VhostOps>> ops_a = make_ops(options);
  if (!ops_a.ok()) return ops_a.status();
  absl::StatusOr<std::unique_ptr<VhostOps>> ops_b = make_ops(second);
  if (!ops_b.ok()) return ops_b.status();
  Port a(session, *std::move(ops_a), options, "port a");
  Port b(session, *std::move(ops_b), options, "port b");
  VHOST_RETURN_IF_ERROR(a.start());
  VHOST_RETURN_IF_ERROR(b.start());

  const MonotonicTime begun = std::chrono::steady_clock::now();
  NetEcho echo(a.client(), b.client(), echo_options(options, begun));
  absl::Status result = echo.run();
  const double seconds = seconds_since(begun);
  result.Update(a.stop());
  result.Update(b.stop());
  return conclude(options, echo, std::move(result), seconds);
}

// Between the kernel's device and the interface of its tap.
absl::Status echo_over_tap(Session& session, const Options& options) {
  absl::StatusOr<UniqueFd> tap = open_tap(options.tap);
  if (!tap.ok()) return tap.status();
  VhostNetOptions net;
  net.path = *options.kernel;
  net.taps = {FdRef(*tap)};
  Port a(session, make_vhost_net_ops(std::move(net)), options, "port a");
  VHOST_RETURN_IF_ERROR(a.start());

  const MonotonicTime begun = std::chrono::steady_clock::now();
  const absl::StatusOr<std::unique_ptr<NetEcho>> echo =
      make_tap_echo(a.client(), options.tap, echo_options(options, begun));
  if (!echo.ok()) return echo.status();
  absl::Status result = (*echo)->run();
  const double seconds = seconds_since(begun);
  result.Update(a.stop());
  return conclude(options, **echo, std::move(result), seconds);
}

}  // namespace

absl::Status run_net_echo(const Options& options) {
  absl::StatusOr<std::unique_ptr<Session>> session = Session::create();
  if (!session.ok()) return session.status();
  return options.kernel.has_value() ? echo_over_tap(**session, options)
                                    : echo_between_sockets(**session, options);
}

}  // namespace vhost::ctl
