// SPDX-License-Identifier: Apache-2.0

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/vhostctl/blk_session.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/latency.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/pattern.h"
#include "tools/vhostctl/progress.h"
#include "tools/vhostctl/transfer.h"
#include "tools/vhostctl/verify_report.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

// What was found out.
struct Findings {
  uint64_t bytes = 0;  // Read back and compared.
  PatternErrors errors;
  uint64_t passes = 0;
  uint64_t requests = 0;
  Duration took{};
};

// Writes the pattern of one pass, flushes, and compares what was written.
absl::Status run_pass(BlkSession& disk, Transfer& transfer, uint64_t size,
                      uint64_t seed, std::optional<MonotonicTime> until,
                      Findings& findings) {
  const uint64_t sequence = findings.passes + 1;
  const auto tag = [&](uint64_t address) {
    return PatternTag{.seed = seed, .sequence = sequence, .address = address};
  };
  uint64_t written = 0;
  {
    Progress progress(absl::StrCat("pass ", sequence, ": write"), size);
    const auto fill = [&](std::span<std::byte> out,
                          uint64_t address) -> absl::StatusOr<size_t> {
      fill_pattern(out, tag(address));
      return out.size();
    };
    const auto result = transfer.write(
        {0, size}, fill, [&](uint64_t done) { progress.update(done); }, until);
    if (!result.ok()) return result.status();
    written = result->bytes;
    findings.requests += result->requests;
  }
  if (disk.config().flush) {
    VHOST_RETURN_IF_ERROR(disk.flush());
    ++findings.requests;
  }
  Progress progress(absl::StrCat("pass ", sequence, ": read"), written);
  const auto compare = [&](std::span<const std::byte> got, uint64_t address) {
    check_pattern(got, tag(address), findings.errors);
    return absl::OkStatus();
  };
  const auto result =
      transfer.read({0, written}, /*in_order=*/false, compare,
                    [&](uint64_t done) { progress.update(done); });
  if (!result.ok()) return result.status();
  findings.bytes += result->bytes;
  findings.requests += result->requests;
  ++findings.passes;
  return absl::OkStatus();
}

// All passes.
absl::Status verify(BlkSession& disk, Transfer& transfer, uint64_t seed,
                    const Options& options, Findings& findings) {
  const absl::StatusOr<uint64_t> size = size_to_verify(disk, options);
  if (!size.ok()) return size.status();
  const MonotonicTime begun = std::chrono::steady_clock::now();
  const MonotonicTime until = begun + options.seconds.value_or(Duration(0));
  // The first pass is always a whole one.
  VHOST_RETURN_IF_ERROR(run_pass(disk, transfer, *size, seed, {}, findings));
  MonotonicTime now = std::chrono::steady_clock::now();
  while (now < until) {
    VHOST_RETURN_IF_ERROR(
        run_pass(disk, transfer, *size, seed, until, findings));
    now = std::chrono::steady_clock::now();
  }
  findings.took = now - begun;
  return absl::OkStatus();
}

// What is printed, as text or as it is.
Json document_of(const Findings& findings, const Options& options,
                 uint64_t seed, BlkSession& disk,
                 const LatencyHistogram& latency) {
  Json out = Json::object();
  out["bytes"] = findings.bytes;
  out["mismatches"] = findings.errors.mismatches;
  if (findings.errors.mismatches > 0) {
    out["first_mismatch"] = findings.errors.first;
  }
  out["passes"] = findings.passes;
  out["seconds"] = in_seconds(findings.took);
  out["iops"] = std::llround(static_cast<double>(findings.requests) /
                             in_seconds(findings.took));
  out["latency_us"] = latency_json(latency);
  out["seed"] = seed;
  out["queues"] = options.queues;
  out["depth"] = options.depth;
  out["request_bytes"] = disk.request_size();
  out["features"] =
      feature_names(kDeviceIdBlock, disk.driver().negotiated().features);
  return out;
}

std::string text_of(const Findings& findings, const Options& options,
                    uint64_t seed, BlkSession& disk,
                    const LatencyHistogram& latency) {
  const double seconds = in_seconds(findings.took);
  // Everything compared was also written.
  const double moved = 2 * static_cast<double>(findings.bytes);
  return absl::StrFormat(
      "negotiated: %s\n"
      "verified:   %s in %u pass%s through %u queues at depth %u, seed %u\n"
      "mismatches: %u\n"
      "speed:      %s/s, %.0f requests/s of %s\n"
      "latency:    min %.1f us, p50 %.1f us, p99 %.1f us, max %.1f us\n",
      absl::StrJoin(
          feature_names(kDeviceIdBlock, disk.driver().negotiated().features),
          " "),
      human_bytes(findings.bytes), findings.passes,
      findings.passes == 1 ? "" : "es", options.queues, options.depth, seed,
      findings.errors.mismatches,
      human_bytes(static_cast<uint64_t>(moved / seconds)),
      static_cast<double>(findings.requests) / seconds,
      human_bytes(disk.request_size()), in_us(latency.min()),
      in_us(latency.percentile(50)), in_us(latency.percentile(99)),
      in_us(latency.max()));
}

absl::Status mismatch_error(const PatternErrors& errors, uint64_t bytes) {
  if (errors.mismatches == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(errors.mismatches, " of ",
                                          bytes / kPatternBlock,
                                          " blocks differ: ", errors.first));
}

}  // namespace

absl::Status run_blk_verify(const Options& options) {
  if (options.reconnect) return run_blk_verify_reconnect(options);
  absl::StatusOr<std::unique_ptr<BlkSession>> disk = BlkSession::open(options);
  if (!disk.ok()) return disk.status();
  absl::StatusOr<std::unique_ptr<Transfer>> transfer = Transfer::create(**disk);
  if (!transfer.ok()) return (*disk)->close(transfer.status());
  const uint64_t seed = options.seed.value_or(random_seed());
  Findings findings;
  const absl::Status done = verify(**disk, **transfer, seed, options, findings);
  VHOST_RETURN_IF_ERROR((*disk)->close(done));
  const LatencyHistogram& latency = (*transfer)->latency();
  VHOST_RETURN_IF_ERROR(
      options.json
          ? print_json(document_of(findings, options, seed, **disk, latency))
          : print_text(text_of(findings, options, seed, **disk, latency)));
  return mismatch_error(findings.errors, findings.bytes);
}

}  // namespace vhost::ctl
