// SPDX-License-Identifier: Apache-2.0
//
// vhostctl vsock ping: a guest's socket device, and over the kernel's the host
// it talks to.

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/endpoint.h"
#include "tools/vhostctl/latency.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/session.h"
#include "tools/vhostctl/vsock_host.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_kernel.h"
#include "vhostdev/vsock_client.h"

namespace vhost::ctl {
namespace {

// Bytes of a ping, all of them a function of its number.
using Ping = std::array<std::byte, 64>;

Ping ping_of(uint64_t number) {
  Ping out;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<std::byte>((number + 1) * 0x9e3779b97f4a7c15 >>
                                    (i * 7 % 57));
  }
  std::memcpy(out.data(), &number, sizeof(number));
  return out;
}

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

VirtioDriver::Options vsock_driver_options(Session& session,
                                           const Options& options) {
  VirtioDriver::Options out = session.driver_options(options);
  out.name = "vsock";
  out.device_id = kDeviceIdVsock;
  // The event queue is the VMM's, and there is nothing it could tell.
  out.max_queues = 2;
  if (options.cid == 0) out.config_size = kVsockConfigSize;
  return out;
}

// One socket device, and a stream of it.
class Guest {
 public:
  Guest(Session& session, std::unique_ptr<VhostOps> ops, const Options& options)
      : options_(options),
        driver_(session.context(), session.memory(), std::move(ops),
                vsock_driver_options(session, options)) {}

  uint64_t cid() const { return client_->guest_cid(); }
  const LatencyHistogram& latency() const { return latency_; }

  absl::Status start() {
    VHOST_RETURN_IF_ERROR(driver_.reset(kVsockWantedFeatures).status());
    VHOST_RETURN_IF_ERROR(
        driver_.start({.queues = 0, .fixed = 2, .depth = 128}).status());
    absl::StatusOr<std::unique_ptr<VsockClient>> client =
        VsockClient::create(driver_, {.guest_cid = options_.cid});
    if (!client.ok()) return client.status();
    client_ = *std::move(client);
    return absl::OkStatus();
  }

  absl::Status connect(uint32_t port) {
    const absl::StatusOr<VsockStream> stream =
        client_->connect({kVsockHostCid, port});
    if (!stream.ok()) return stream.status();
    stream_ = *stream;
    VHOST_RETURN_IF_ERROR(until(
        "connect", [this] { return state() != VsockState::kConnecting; }));
    return state() == VsockState::kOpen
               ? absl::OkStatus()
               : annotate(client_->info(stream_)->status, "connect");
  }

  // Sends one and takes it back.
  absl::Status ping(uint64_t number) {
    const Ping sent = ping_of(number);
    Ping back = {};
    size_t went = 0;
    size_t came = 0;
    absl::Status status;
    const MonotonicTime begun = clock_now();
    status.Update(until(absl::StrCat("ping ", number), [&] {
      if (went < sent.size()) {
        const auto size = client_->send(stream_, std::span(sent).subspan(went));
        status.Update(size.status());
        went += size.value_or(0);
      }
      const auto size =
          client_->receive(stream_, std::span(back).subspan(came));
      status.Update(size.status());
      came += size.value_or(0);
      return !status.ok() || came == back.size() ||
             state() == VsockState::kClosed;
    }));
    if (!status.ok()) return status;
    if (came < back.size()) {
      return absl::AbortedError(absl::StrCat(
          "ping ", number, ": the host closed after ", came, " bytes"));
    }
    latency_.add(clock_now() - begun);
    if (back == sent) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("ping ", number, " came back damaged"));
  }

  absl::Status stop() {
    if (client_ == nullptr || !client_->status().ok()) return absl::OkStatus();
    absl::Status ended;
    if (state() == VsockState::kOpen) {
      ended = client_->shutdown(stream_, true, true);
      ended.Update(
          until("shutdown", [this] { return state() == VsockState::kClosed; }));
    }
    const auto stopped =
        driver_.stop(VirtioDriver::StopMode::kCancel, Duration(0));
    ended.Update(stopped.ok() ? stopped->status : stopped.status());
    return ended;
  }

 private:
  VsockState state() const {
    const auto info = client_->info(stream_);
    return info.has_value() ? info->state : VsockState::kClosed;
  }

  absl::Status until(absl::string_view what, absl::FunctionRef<bool()> done) {
    const MonotonicTime deadline = clock_now() + options_.timeout;
    for (;;) {
      client_->poll();
      if (done()) return absl::OkStatus();
      VHOST_RETURN_IF_ERROR(annotate(client_->status(), what));
      const MonotonicTime now = clock_now();
      if (now >= deadline) break;
      client_->wait(deadline - now);
    }
    return absl::DeadlineExceededError(
        absl::StrCat(what, ": no answer for ",
                     absl::FormatDuration(absl::FromChrono(options_.timeout))));
  }

  const Options options_;
  VirtioDriver driver_;
  std::unique_ptr<VsockClient> client_;
  VsockStream stream_{};
  LatencyHistogram latency_;
};

double microseconds(Duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

absl::Status print(const Options& options, const Guest& guest, uint32_t port) {
  const LatencyHistogram& latency = guest.latency();
  if (options.json) {
    Json document = Json::object();
    document["cid"] = guest.cid();
    document["port"] = port;
    document["sent"] = options.count;
    document["returned"] = latency.count();
    document["bytes"] = latency.count() * sizeof(Ping);
    document["min_us"] = microseconds(latency.min());
    document["mean_us"] = microseconds(latency.mean());
    document["p99_us"] = microseconds(latency.percentile(99));
    document["max_us"] = microseconds(latency.max());
    return print_json(document);
  }
  return print_text(absl::StrFormat(
      "guest %d to host port %d: %d of %d pings of %d bytes returned\n"
      "round trip: min %.1f, mean %.1f, 99 %% %.1f, max %.1f us\n",
      guest.cid(), port, latency.count(), options.count, sizeof(Ping),
      microseconds(latency.min()), microseconds(latency.mean()),
      microseconds(latency.percentile(99)), microseconds(latency.max())));
}

absl::Status exchange(Guest& guest, const Options& options, uint32_t port) {
  VHOST_RETURN_IF_ERROR(guest.connect(port));
  for (uint32_t i = 0; i < options.count; ++i) {
    VHOST_RETURN_IF_ERROR(guest.ping(i));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status run_vsock_ping(const Options& options) {
  absl::StatusOr<std::unique_ptr<Session>> session = Session::create();
  if (!session.ok()) return session.status();
  absl::StatusOr<std::unique_ptr<VhostOps>> ops;
  std::unique_ptr<VsockHost> host;
  uint32_t port = options.port.value_or(0);
  if (options.kernel.has_value()) {
    ops = make_vhost_vsock_ops(
        {.device = OpenDevice{*options.kernel}, .guest_cid = options.cid});
  } else {
    ops = make_ops(options);
  }
  if (!ops.ok()) return ops.status();
  Guest guest(**session, *std::move(ops), options);
  VHOST_RETURN_IF_ERROR(guest.start());
  if (options.kernel.has_value()) {
    // ORDER: the device first, because what it lacks explains more.
    absl::StatusOr<std::unique_ptr<VsockHost>> started =
        VsockHost::start(options.port);
    if (!started.ok()) return started.status();
    host = *std::move(started);
    port = host->port();
  }
  absl::Status result = exchange(guest, options, port);
  result.Update(guest.stop());
  const absl::Status printed = print(options, guest, port);
  return result.ok() ? printed : result;
}

}  // namespace vhost::ctl
