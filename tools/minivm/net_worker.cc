// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/net_worker.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/tap_port.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// Frames between two looks at the command: what is sent comes back, or is lost,
// before the next look.
constexpr uint64_t kBurst = 64;
// No frame came for so long: the rest of a burst is lost.
constexpr Duration kPatience = std::chrono::milliseconds(200);
// Bytes of what is loaded, at most.
constexpr size_t kMostClientState = size_t{16} << 20;

}  // namespace

NetWorker::NetWorker(EventLoop& loop, DriverDevice& near, DriverDevice* far,
                     const Workload& workload)
    : Worker(loop, far == nullptr
                       ? near.name()
                       : absl::StrCat(near.name(), " and ", far->name())),
      near_(near),
      far_(far),
      workload_(workload),
      left_(workload.seconds) {}

uint64_t NetWorker::memory_needed() const {
  if (near_client_ != nullptr) return 0;
  uint64_t bytes = NetClient::memory_for(1, near_.net_options());
  if (far_ != nullptr) bytes += NetClient::memory_for(1, far_->net_options());
  return bytes;
}

// Here, because a queue belongs to the thread that acquires it.
absl::Status NetWorker::make_clients() {
  auto client = NetClient::create(near_.driver(), near_.net_options());
  if (!client.ok()) return client.status();
  near_client_ = *std::move(client);
  if (far_ == nullptr) return absl::OkStatus();
  client = NetClient::create(far_->driver(), far_->net_options());
  if (!client.ok()) return client.status();
  far_client_ = *std::move(client);
  return absl::OkStatus();
}

absl::Status NetWorker::run() {
  absl::Status status = near_client_ == nullptr ? make_clients() : take_over();
  if (left_.has_value()) end_ = std::chrono::steady_clock::now() + *left_;
  if (status.ok()) status = send_all();
  // ORDER: a queue is given back by the thread that acquired it.
  near_client_ = nullptr;
  far_client_ = nullptr;
  return status;
}

absl::Status NetWorker::send_all() {
  set_state("running");
  for (;; ++burst_) {
    const Command command = gate(/*idle=*/true);
    const bool over =
        end_.has_value() && std::chrono::steady_clock::now() >= *end_;
    if (command == Command::kKill) return absl::OkStatus();
    if (command == Command::kFinish || over) break;
    VHOST_RETURN_IF_ERROR(run_burst(burst_));
    publish(report_);
  }
  if (report_.frames_sent != 0 && report_.frames_received == 0) {
    return absl::DeadlineExceededError(
        absl::StrCat("none of ", report_.frames_sent, " frames arrived"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ctl::NetEcho>> NetWorker::make_echo(
    uint64_t burst) {
  const ctl::NetEcho::Options options = {
      .frames = kBurst, .seed = workload_.seed + burst, .timeout = kPatience};
  if (far_client_ != nullptr) {
    return std::make_unique<ctl::NetEcho>(*near_client_, *far_client_, options);
  }
  return ctl::make_tap_echo(*near_client_, near_.options().path, options);
}

absl::Status NetWorker::lost() const {
  absl::Status status = near_client_->status();
  if (far_client_ != nullptr) status.Update(far_client_->status());
  return status;
}

absl::Status NetWorker::run_burst(uint64_t burst) {
  absl::StatusOr<std::unique_ptr<ctl::NetEcho>> echo = make_echo(burst);
  if (!echo.ok()) return echo.status();
  // Its errors are counted, or are frames that were lost.
  (*echo)->run().IgnoreError();
  count((*echo)->counts());
  return lost();
}

void NetWorker::count(const ctl::EchoCounts& counts) {
  report_.frames_sent += counts.sent + counts.arrived;
  report_.frames_received += counts.arrived + counts.returned;
  report_.received_by[near_.name()] += counts.returned;
  if (far_ != nullptr) report_.received_by[far_->name()] += counts.arrived;
  report_.frame_faults += counts.damaged + counts.repeated;
  if (report_.first_fault.empty()) report_.first_fault = counts.first_damage;
  if (report_.first_fault.empty() && counts.repeated != 0) {
    report_.first_fault = "a frame came more than once";
  }
}

// ---------------------------------------------------------------------------

absl::Status NetWorker::take_over() {
  absl::Status first = near_client_->take_over();
  if (far_client_ != nullptr) first.Update(far_client_->take_over());
  return first;
}

absl::Status NetWorker::save_running(StateWriter& out) const {
  // Between two bursts: what has not come back is lost already.
  for (const NetClient* const client :
       {near_client_.get(), far_client_.get()}) {
    if (client == nullptr) continue;
    const absl::StatusOr<NetClientState> state = client->save();
    if (!state.ok()) return state.status();
    out.bytes(encode(*state));
  }
  out.u64(burst_);
  save_time(end_.has_value()
                ? std::optional(*end_ - std::chrono::steady_clock::now())
                : std::nullopt,
            out);
  return absl::OkStatus();
}

absl::Status NetWorker::load_running(StateReader& in) {
  const auto load =
      [&in](
          DriverDevice& device) -> absl::StatusOr<std::unique_ptr<NetClient>> {
    const absl::StatusOr<NetClientState> state =
        decode_net_client_state(in.bytes(kMostClientState));
    VHOST_RETURN_IF_ERROR(in.status());
    if (!state.ok()) return state.status();
    return NetClient::restore(device.driver(), device.net_options(), *state);
  };
  absl::StatusOr<std::unique_ptr<NetClient>> client = load(near_);
  if (!client.ok()) return client.status();
  near_client_ = *std::move(client);
  if (far_ != nullptr) {
    client = load(*far_);
    if (!client.ok()) return client.status();
    far_client_ = *std::move(client);
  }
  burst_ = in.u64();
  left_ = load_time(in);
  report_ = report();
  report_.state.clear();
  return in.status();
}

}  // namespace vhost::minivm
