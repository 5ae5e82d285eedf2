// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/serial.h"

#include <algorithm>
#include <utility>

namespace vhost::minivm {
namespace {

constexpr uint64_t kData = 0;  // Or the divisor's low byte.
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kLineStatus = 5;
constexpr uint8_t kDivisorAccess = 0x80;
constexpr uint8_t kTransmitterEmpty = 0x60;
// More than a console can be late by: what is written then is not kept.
constexpr size_t kMostWaiting = size_t{1} << 20;

}  // namespace

Serial::Serial(EventLoop& loop, Sink sink)
    : loop_(loop), output_(std::make_shared<Output>()) {
  output_->sink = std::move(sink);
}

void Serial::read(uint64_t offset, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  if (offset == kLineStatus) {
    out[0] = std::byte{kTransmitterEmpty};
  } else if (offset != kData) {
    out[0] = std::byte{registers_[offset].load(std::memory_order_relaxed)};
  }
}

bool Serial::write(uint64_t offset, std::span<const std::byte> bytes,
                   EventLoop::Callback done) {
  static_cast<void>(done);
  const auto value = std::to_integer<uint8_t>(bytes[0]);
  const bool divisor = (registers_[kLineControl].load() & kDivisorAccess) != 0;
  if (offset != kData || divisor) {
    registers_[offset].store(value, std::memory_order_relaxed);
    return false;
  }
  absl::MutexLock lock(&output_->mutex);
  const bool first = output_->waiting.empty();
  if (output_->waiting.size() < kMostWaiting) {
    output_->waiting.push_back(static_cast<char>(value));
  }
  if (!first) return false;
  // A guest that is gone says nothing any more.
  loop_.post([weak = std::weak_ptr<Output>(output_)] {
    const std::shared_ptr<Output> output = weak.lock();
    if (output == nullptr) return;
    std::string text;
    {
      absl::MutexLock inner(&output->mutex);
      text.swap(output->waiting);
    }
    if (output->sink) output->sink(text);
  });
  return false;
}

void Serial::save(StateWriter& out) const {
  for (const std::atomic<uint8_t>& value : registers_) out.u8(value);
}

void Serial::load(StateReader& in) {
  for (std::atomic<uint8_t>& value : registers_) value = in.u8();
}

}  // namespace vhost::minivm
