// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/migration_report.h"

#include <chrono>
#include <string>
#include <utility>

namespace vhost::minivm {
namespace {

using ctl::Json;

// To a microsecond.
double milliseconds(Duration time) {
  const auto micro =
      std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  return static_cast<double>(micro) / 1000;
}

Json phases_json(const MigrationProgress& progress) {
  Json out = Json::object();
  for (const MigrationProgress::Phase& one : progress.phases) {
    const std::string name(to_string(one.phase));
    const auto before = out.find(name);
    const auto* const sum =
        before == out.end() ? nullptr : before->get_ptr<const double*>();
    out[name] = milliseconds(one.time) + (sum == nullptr ? 0 : *sum);
  }
  return out;
}

}  // namespace

Json migration_json(const MigrationProgress& progress) {
  Json out = Json::object();
  out["phase"] = std::string(to_string(progress.phase));
  out["outcome"] = std::string(to_string(progress.outcome));
  if (!progress.status.ok()) out["error"] = progress.status.ToString();
  out["downtime_ms"] = milliseconds(progress.downtime);
  out["predicted_downtime_ms"] = milliseconds(progress.predicted_downtime);
  out["rounds"] = progress.rounds;
  out["bytes"] = progress.stream;
  out["ram_size"] = progress.ram_size;
  out["ram_moved"] = progress.ram_moved;
  out["zero_moved"] = progress.zero_moved;
  out["remaining"] = progress.remaining;
  out["state_bytes"] = progress.state_bytes;
  out["bandwidth"] = progress.bandwidth;
  Json dirty = Json::object();
  for (const MigrationProgress::Provider& provider : progress.providers) {
    dirty[provider.name] = provider.dirty_rate;
  }
  out["dirty_rate"] = std::move(dirty);
  out["phases"] = phases_json(progress);
  return out;
}

}  // namespace vhost::minivm
