// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/transfer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr std::byte kUnread{0xdb};

MonotonicTime now() { return std::chrono::steady_clock::now(); }

}  // namespace

absl::StatusOr<std::unique_ptr<Transfer>> Transfer::create(BlkSession& disk) {
  std::unique_ptr<Transfer> out(new Transfer(disk.client()));
  out->request_size_ = disk.request_size();
  const uint32_t window = disk.window();
  absl::StatusOr<DmaBuffer> memory =
      disk.memory().allocate(out->request_size_ * window, 4096);
  if (!memory.ok()) return memory.status();
  out->memory_ = *std::move(memory);
  out->slots_.resize(window);
  for (uint32_t i = 0; i < window; ++i) {
    out->slots_[i].buffer =
        out->memory_.span().subspan(i * out->request_size_, out->request_size_);
    out->free_.push_back(i);
  }
  return out;
}

absl::Status Transfer::submit(BlkOp op, size_t slot, uint64_t address,
                              uint64_t length) {
  Slot& used = slots_[slot];
  used.address = address;
  used.length = length;
  used.done = false;
  used.submitted = now();
  const DmaSpan data = used.buffer.subspan(0, length);
  return annotate(client_.submit({.op = op,
                                  .offset = address,
                                  .buffers = std::span(&data, 1),
                                  .cookie = slot}),
                  absl::StrCat("byte ", address));
}

absl::Status Transfer::wait(Result& result) {
  std::array<BlkCompletion, 64> completions;
  const size_t count = client_.wait(completions);
  const MonotonicTime seen = now();
  absl::Status first;
  for (const BlkCompletion& completion : std::span(completions).first(count)) {
    Slot& slot = slots_[completion.cookie];
    slot.done = true;
    finished_.push_back(completion.cookie);
    if (!completion.status.ok()) {
      first.Update(
          annotate(completion.status, absl::StrCat("byte ", slot.address)));
      continue;
    }
    latency_.add(seen - slot.submitted);
    result.bytes += slot.length;
    ++result.requests;
  }
  return first;
}

absl::Status Transfer::drain(const absl::Status& error) {
  Result ignored;
  while (client_.in_flight() > 0) static_cast<void>(wait(ignored));
  finished_.clear();
  free_.clear();
  for (size_t i = 0; i < slots_.size(); ++i) free_.push_back(i);
  return error;
}

absl::Status Transfer::submit_writes(const Range& range, Fill fill,
                                     std::optional<MonotonicTime> until,
                                     uint64_t& next) {
  while (next < range.end && !free_.empty()) {
    const size_t slot = free_.back();
    const uint64_t asked = std::min(request_size_, range.end - next);
    const bool late = until.has_value() && now() >= *until;
    const absl::StatusOr<size_t> filled =
        late ? 0 : fill(std::span(slots_[slot].buffer.data, asked), next);
    if (!filled.ok()) return filled.status();
    if (*filled > 0) {
      VHOST_RETURN_IF_ERROR(submit(BlkOp::kWrite, slot, next, *filled));
      free_.pop_back();
    }
    next = *filled < asked ? range.end : next + *filled;
  }
  return absl::OkStatus();
}

absl::StatusOr<Transfer::Result> Transfer::write(
    const Range& range, Fill fill, absl::FunctionRef<void(uint64_t)> progress,
    std::optional<MonotonicTime> until) {
  Result result;
  uint64_t next = range.begin;
  while (true) {
    const absl::Status submitted = submit_writes(range, fill, until, next);
    if (!submitted.ok()) return drain(annotate(submitted, "write"));
    if (client_.in_flight() == 0) return result;
    const absl::Status waited = wait(result);
    if (!waited.ok()) return drain(annotate(waited, "write"));
    free_.insert(free_.end(), finished_.begin(), finished_.end());
    finished_.clear();
    progress(result.bytes);
  }
}

absl::Status Transfer::submit_reads(const Range& range, uint64_t& next) {
  while (next < range.end && !free_.empty()) {
    const size_t slot = free_.back();
    const uint64_t length = std::min(request_size_, range.end - next);
    // What the device does not write must not look as if it had.
    std::memset(slots_[slot].buffer.data, std::to_integer<int>(kUnread),
                length);
    VHOST_RETURN_IF_ERROR(submit(BlkOp::kRead, slot, next, length));
    free_.pop_back();
    order_.push_back(slot);
    next += length;
  }
  return absl::OkStatus();
}

void Transfer::put_finished_in_order() {
  finished_.clear();
  while (!order_.empty() && slots_[order_.front()].done) {
    finished_.push_back(order_.front());
    order_.pop_front();
  }
}

absl::StatusOr<Transfer::Result> Transfer::read(
    const Range& range, bool in_order, Take take,
    absl::FunctionRef<void(uint64_t)> progress) {
  Result result;
  uint64_t next = range.begin;
  order_.clear();
  while (true) {
    const absl::Status submitted = submit_reads(range, next);
    if (!submitted.ok()) return drain(annotate(submitted, "read"));
    if (client_.in_flight() == 0) return result;
    const absl::Status waited = wait(result);
    if (!waited.ok()) return drain(annotate(waited, "read"));
    if (in_order) put_finished_in_order();
    for (const size_t slot : finished_) {
      const Slot& done = slots_[slot];
      const absl::Status taken =
          take(std::span(done.buffer.data, done.length), done.address);
      if (!taken.ok()) return drain(taken);
      free_.push_back(slot);
    }
    finished_.clear();
    progress(result.bytes);
  }
}

}  // namespace vhost::ctl
