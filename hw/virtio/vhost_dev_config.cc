// SPDX-License-Identifier: Apache-2.0
// The configuration space: a cache of it, and the interrupt for its changes.
#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// A back-end that changes its configuration all the time is read so often, and
// what came last is as good as anything.
constexpr int kMaxReads = 3;
constexpr size_t kMaxWrites = 64;

}  // namespace

absl::Status VhostDev::Impl::check_config_range(uint64_t offset,
                                                uint64_t size) const {
  if (offset + size <= options_.config_size) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("bytes ", offset, " to ", offset + size,
                   " of a configuration space of ", options_.config_size));
}

void VhostDev::Impl::get_config(uint32_t offset, std::span<std::byte> out,
                                Completion done) {
  using enum DeviceState;
  begin({.name = "get config",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, offset, to = out.data(), size = out.size()] {
           return get_config_task(offset, to, size);
         }});
}

void VhostDev::Impl::set_config(uint32_t offset,
                                std::span<const std::byte> bytes,
                                ConfigWriter writer, Completion done) {
  using enum DeviceState;
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  begin({.name = "set config",
         .done = std::move(done),
         .states = {kReady, kRunning},
         .make = [this, offset, copy = std::move(copy), writer]() mutable {
           return set_config_task(offset, std::move(copy), writer);
         }});
}

Task VhostDev::Impl::get_config_task(uint32_t offset, std::byte* out,
                                     size_t size) {
  absl::Status status = check_config_range(offset, size);
  if (!status.ok() || size == 0) co_return status;
  const MonotonicTime deadline = after(options_.start_timeout);
  std::vector<std::byte> bytes = config_;
  for (int reads = 0; bytes.empty() || (config_.empty() && reads < kMaxReads);
       ++reads) {
    const uint64_t changes = config_changes_;
    Verb get = GetConfig{.offset = 0, .size = options_.config_size};
    BatchResult got = co_await Submit(runner_, std::move(get), deadline);
    status = judge(got);
    if (!status.ok()) co_return status;
    if (got.bytes.size() != options_.config_size) {
      co_return absl::DataLossError(
          absl::StrCat(got.bytes.size(), " bytes of configuration; asked for ",
                       options_.config_size));
    }
    bytes = std::move(got.bytes);
    // A change under way makes the bytes old before they are kept.
    if (changes == config_changes_) config_ = bytes;
  }
  std::copy_n(bytes.begin() + offset, size, out);
  co_return status;
}

Task VhostDev::Impl::set_config_task(uint32_t offset,
                                     std::vector<std::byte> bytes,
                                     ConfigWriter writer) {
  absl::Status status = check_config_range(offset, bytes.size());
  if (!status.ok() || bytes.empty()) co_return status;
  SetConfig set;
  set.offset = offset;
  set.bytes = std::move(bytes);
  set.writer = writer;
  Verb verb = set;
  BatchResult done =
      co_await Submit(runner_, std::move(verb), after(options_.start_timeout));
  // Also where it was refused: what a device makes of a write is its own.
  config_.clear();
  ++config_changes_;
  status = judge(done);
  if (status.ok() && writer == ConfigWriter::kDriver) {
    remember_config(std::move(set));
  }
  co_return status;
}

// What the guest wrote last to each field, for a successor.
void VhostDev::Impl::remember_config(SetConfig written) {
  std::erase_if(told_config_, [&](const SetConfig& earlier) {
    return earlier.offset == written.offset &&
           earlier.bytes.size() == written.bytes.size();
  });
  // A device has fewer fields than this; a guest may invent more.
  if (told_config_.size() == kMaxWrites) {
    told_config_.erase(told_config_.begin());
  }
  told_config_.push_back(std::move(written));
}

void VhostDev::Impl::on_config_changed() {
  config_.clear();
  ++config_changes_;
  events_.config_changed();
}

absl::Status VhostDev::Impl::make_config_notifier() {
  if (config_call_ != nullptr) return absl::OkStatus();
  absl::StatusOr<EventNotifier> made = EventNotifier::create();
  if (!made.ok()) return annotate(made.status(), "configuration notifier");
  config_call_ = std::make_unique<EventNotifier>(std::move(*made));
  config_watch_ = loop_.watch(config_call_->read_fd(), {.readable = true},
                              [this](IoEvents) { config_signalled(); });
  return absl::OkStatus();
}

void VhostDev::Impl::config_signalled() {
  if (!config_call_->test_and_clear()) return;
  config_.clear();
  ++config_changes_;
  if (config_masked_) {
    config_held_ = true;
  } else {
    events_.config_changed();
  }
}

void VhostDev::Impl::mask_config() { config_masked_ = true; }

void VhostDev::Impl::unmask_config() {
  config_masked_ = false;
  if (std::exchange(config_held_, false)) events_.config_changed();
}

bool VhostDev::Impl::config_pending() {
  // A signal that the loop did not come to yet counts.
  if (config_masked_ && config_call_ != nullptr) config_signalled();
  return std::exchange(config_held_, false);
}

}  // namespace vhost
