// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BENCH_IDLE_VMM_H_
#define TESTS_BENCH_IDLE_VMM_H_

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "tests/bench/bench_kit.h"
#include "vhostdev/virtio_device.h"

namespace vhost::bench {

// A VMM that does nothing with notifiers.
class NoBinding final : public NotifierBinding {
 public:
  absl::Status bind_kicks(std::span<const KickBinding>) override {
    return absl::OkStatus();
  }
  void unbind_kicks(std::span<const QueueIndex>) override {}
  absl::Status bind_calls(std::span<const CallBinding>) override {
    return absl::OkStatus();
  }
  void unbind_calls(std::span<const VectorIndex>) override {}
  void mask(VectorIndex) override {}
  void unmask(VectorIndex) override {}
  void raise(VectorIndex) override {}
};

}  // namespace vhost::bench

#endif  // TESTS_BENCH_IDLE_VMM_H_
