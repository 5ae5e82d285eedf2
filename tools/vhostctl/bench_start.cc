// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/endpoint.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/session.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr uint32_t kDefaultRepeat = 10;
constexpr uint32_t kRingSize = 128;

// What one phase cost, over all repeats.
class PhaseCost {
 public:
  void add(const BackendCounters& before, const BackendCounters& after,
           Duration took) {
    waits_ = std::max(waits_, after.waits - before.waits);
    stalls_ = std::max(stalls_, after.stalls - before.stalls);
    messages_ = std::max(messages_, after.messages - before.messages);
    took_us_.push_back(std::chrono::duration<double, std::micro>(took).count());
  }

  // To a tenth of a microsecond.
  double median_us() const {
    std::vector<double> sorted = took_us_;
    std::sort(sorted.begin(), sorted.end());
    const size_t half = sorted.size() / 2;
    const double median = sorted.size() % 2 == 1
                              ? sorted[half]
                              : (sorted[half - 1] + sorted[half]) / 2;
    return std::round(median * 10) / 10;
  }

  Json json() const {
    Json out = Json::object();
    out["waits"] = waits_;
    out["stalls"] = stalls_;
    out["messages"] = messages_;
    out["us_median"] = median_us();
    return out;
  }

  std::string text() const {
    return absl::StrFormat("%6u %7u %9u %11.1f us", waits_, stalls_, messages_,
                           median_us());
  }

 private:
  uint64_t waits_ = 0;
  uint64_t stalls_ = 0;
  uint64_t messages_ = 0;
  std::vector<double> took_us_;
};

struct Costs {
  PhaseCost connect;
  PhaseCost start;
  PhaseCost stop;
};

// Connects, starts and stops once.
absl::Status run_once(Session& session, const Options& options, Costs& costs) {
  absl::StatusOr<std::unique_ptr<VhostOps>> ops = make_ops(options);
  if (!ops.ok()) return ops.status();
  VirtioDriver::Options driver_options = session.driver_options(options);
  driver_options.max_queues = options.queues;
  VirtioDriver driver(session.context(), session.memory(), *std::move(ops),
                      driver_options);
  const auto measure = [&driver](PhaseCost& cost, auto&& phase) {
    const BackendCounters before = driver.device().counters();
    const MonotonicTime begun = std::chrono::steady_clock::now();
    const absl::Status status = phase();
    const Duration took = std::chrono::steady_clock::now() - begun;
    if (status.ok()) cost.add(before, driver.device().counters(), took);
    return status;
  };

  const FeatureSet wanted = {kFeatureIndirectDesc, kFeatureEventIdx,
                             kFeatureProtocolFeatures};
  VHOST_RETURN_IF_ERROR(
      measure(costs.connect, [&] { return driver.reset(wanted).status(); }));
  VHOST_RETURN_IF_ERROR(measure(costs.start, [&]() -> absl::Status {
    const auto started =
        driver.start({.queues = options.queues, .depth = kRingSize});
    if (!started.ok()) return started.status();
    if (started->queues == options.queues) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "--queues ", options.queues, ": the device has ", started->queues));
  }));
  return measure(costs.stop, [&]() -> absl::Status {
    const auto stopped =
        driver.stop(VirtioDriver::StopMode::kDrain, options.timeout);
    return stopped.ok() ? stopped->status : stopped.status();
  });
}

std::string text_of(const Costs& costs) {
  return absl::StrCat("          waits  stalls  messages   us (median)\n",
                      "connect  ", costs.connect.text(), "\n", "start    ",
                      costs.start.text(), "\n", "stop     ", costs.stop.text(),
                      "\n");
}

}  // namespace

absl::Status run_bench_start(const Options& options) {
  absl::StatusOr<std::unique_ptr<Session>> session = Session::create();
  if (!session.ok()) return session.status();
  // A socket that was handed in cannot be connected again.
  const uint32_t repeat =
      options.repeat.value_or(options.fd.has_value() ? 1 : kDefaultRepeat);
  Costs costs;
  for (uint32_t i = 0; i < repeat; ++i) {
    VHOST_RETURN_IF_ERROR(run_once(**session, options, costs));
  }
  if (!options.json) return print_text(text_of(costs));
  Json document = Json::object();
  document["queues"] = options.queues;
  document["repeat"] = repeat;
  document["connect"] = costs.connect.json();
  document["start"] = costs.start.json();
  document["stop"] = costs.stop.json();
  return print_json(document);
}

}  // namespace vhost::ctl
