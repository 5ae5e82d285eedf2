// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/memory_state.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

uint64_t add(uint64_t a, uint64_t b) {
  const uint64_t sum = a + b;
  return sum < a ? std::numeric_limits<uint64_t>::max() : sum;
}

void call(absl::AnyInvocable<void()>& ready) {
  absl::AnyInvocable<void()> once = std::exchange(ready, nullptr);
  if (once) once();
}

}  // namespace

void MemoryStateSink::open(uint64_t more) {
  room = add(room, more);
  wake();
}

void MemoryStateSink::wake() { call(ready_); }

absl::StatusOr<uint64_t> MemoryStateSink::take(int pipe, uint64_t available) {
  if (on_take) on_take();
  if (bytes.size() >= fails_after) return fails;
  const uint64_t most =
      std::min({available, room, kMaxStateChunk, fails_after - bytes.size()});
  if (most == 0) return 0;
  const size_t before = bytes.size();
  bytes.resize(before + most);
  const ssize_t got = ::read(pipe, bytes.data() + before, most);
  bytes.resize(before + (got > 0 ? static_cast<size_t>(got) : 0));
  if (got < 0) return errno_status(errno, "read");
  const auto taken = static_cast<uint64_t>(got);
  if (room != std::numeric_limits<uint64_t>::max()) room -= taken;
  if (taken > 0) chunks.push_back(taken);
  return taken;
}

absl::StatusOr<bool> MemoryStateSink::end() {
  ++ends;
  if (!end_fails.ok()) return end_fails;
  ended = takes_end;
  return takes_end;
}

void MemoryStateSource::open(uint64_t more) {
  stock = add(stock, more);
  call(ready_);
}

absl::StatusOr<StateSource::Given> MemoryStateSource::give(int pipe,
                                                           uint64_t most) {
  if (given >= fails_after) return fails;
  const uint64_t left = bytes.size() - given;
  if (left == 0) return Given{.ended = true};
  const uint64_t part = std::min({left, most, stock, fails_after - given});
  if (part == 0) return Given{.dry = true};
  const ssize_t done = ::write(pipe, bytes.data() + given, part);
  if (done < 0 && errno == EAGAIN) return Given{};
  if (done < 0) return errno_status(errno, "write");
  given += static_cast<uint64_t>(done);
  if (stock != std::numeric_limits<uint64_t>::max()) {
    stock -= static_cast<uint64_t>(done);
  }
  return Given{.bytes = static_cast<uint64_t>(done)};
}

}  // namespace vhost::testing
