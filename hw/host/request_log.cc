// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/request_log.h"

#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vhost {
namespace {

double in(Duration time, double unit) {
  return static_cast<double>(time.count()) / unit;
}

std::string error_name(int error) {
  const char* const name = ::strerrorname_np(error);
  return name != nullptr ? std::string(name) : absl::StrCat("error ", error);
}

}  // namespace

void RequestCounts::sent(size_t kind) {
  if (kind < kinds_.size()) ++kinds_[kind].sent;
}

void RequestCounts::refused(size_t kind) {
  if (kind < kinds_.size()) ++kinds_[kind].refused;
}

void RequestCounts::unanswered(size_t kind) {
  if (kind < kinds_.size()) ++kinds_[kind].unanswered;
}

void RequestCounts::answered(size_t kind, Duration took) {
  if (kind < kinds_.size()) kinds_[kind].latency.add(took);
}

std::vector<RequestStats> RequestCounts::stats(
    absl::FunctionRef<std::string(size_t kind)> name) const {
  std::vector<RequestStats> out;
  for (size_t i = 0; i < kinds_.size(); ++i) {
    const Kind& kind = kinds_[i];
    if (kind.sent == 0) continue;
    out.push_back({.request = name(i),
                   .sent = kind.sent,
                   .refused = kind.refused,
                   .unanswered = kind.unanswered,
                   .latency = kind.latency});
  }
  return out;
}

std::string since_text(Duration time) {
  return absl::StrFormat("+%.3f ms", in(time, 1e6));
}

std::string duration_text(Duration time) {
  if (time < std::chrono::microseconds(1)) {
    return absl::StrCat(time.count(), " ns");
  }
  if (time < std::chrono::milliseconds(1)) {
    return absl::StrFormat("%.3g us", in(time, 1e3));
  }
  if (time < std::chrono::seconds(1)) {
    return absl::StrFormat("%.3g ms", in(time, 1e6));
  }
  return absl::StrFormat("%.2f s", in(time, 1e9));
}

void CallLog::add(unsigned long request, MonotonicTime at, Duration took,
                  int error) {
  size_t kind = 0;
  while (kind < names_.size() && names_[kind].request != request) ++kind;
  counts_.sent(kind);
  counts_.answered(kind, took);
  if (error != 0) counts_.refused(kind);
  if (count_ == 0) begun_ = at;
  ring_[count_++ % kKept] = {
      .kind = kind, .at = at - begun_, .took = took, .error = error};
}

std::string CallLog::name_of(size_t kind) const {
  return kind < names_.size() ? names_[kind].name : "another";
}

std::vector<std::string> CallLog::lines() const {
  std::vector<std::string> out;
  for (uint64_t i = count_ > kKept ? count_ - kKept : 0; i < count_; ++i) {
    const Call& call = ring_[i % kKept];
    std::string line =
        absl::StrCat(since_text(call.at), " ", name_of(call.kind));
    if (call.error != 0) absl::StrAppend(&line, ": ", error_name(call.error));
    absl::StrAppend(&line, " (took ", duration_text(call.took), ")");
    out.push_back(std::move(line));
  }
  return out;
}

std::vector<RequestStats> CallLog::stats() const {
  return counts_.stats([this](size_t kind) { return name_of(kind); });
}

}  // namespace vhost
