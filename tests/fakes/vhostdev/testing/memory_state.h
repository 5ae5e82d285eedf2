// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MEMORY_STATE_H_
#define VHOSTDEV_TESTING_MEMORY_STATE_H_

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/device_state.h"

namespace vhost::testing {

// A StateSink that keeps the state.  Fields may be changed at any time; open()
// tells whoever waits.
class MemoryStateSink final : public StateSink {
 public:
  // -- What a test sets. ----------------------------------------------------
  // Bytes and ends it takes from now on.
  uint64_t room = std::numeric_limits<uint64_t>::max();
  bool takes_end = true;
  // Bytes after which take() fails with this; end() fails with `end_fails`.
  uint64_t fails_after = std::numeric_limits<uint64_t>::max();
  absl::Status fails;
  absl::Status end_fails;
  // Runs inside take().
  absl::AnyInvocable<void()> on_take;

  // -- What it sees. --------------------------------------------------------
  std::string bytes;
  std::vector<uint64_t> chunks;  // Bytes of each take() that took any.
  bool ended = false;
  int ends = 0;  // Calls of end().
  bool waited_for() const { return ready_ != nullptr; }

  // Makes room for `more` bytes and calls who waits.
  void open(uint64_t more = std::numeric_limits<uint64_t>::max());
  // Calls who waits.
  void wake();

  absl::StatusOr<uint64_t> take(int pipe, uint64_t available) override;
  void when_ready(absl::AnyInvocable<void()> ready) override {
    ready_ = std::move(ready);
  }
  absl::StatusOr<bool> end() override;

 private:
  absl::AnyInvocable<void()> ready_;
};

// A StateSource that has the state.
class MemoryStateSource final : public StateSource {
 public:
  explicit MemoryStateSource(std::string state) : bytes(std::move(state)) {}

  std::string bytes;
  // Bytes it gives before it is dry.
  uint64_t stock = std::numeric_limits<uint64_t>::max();
  // Bytes after which give() fails with this.
  uint64_t fails_after = std::numeric_limits<uint64_t>::max();
  absl::Status fails;
  uint64_t given = 0;  // Bytes.
  bool waited_for() const { return ready_ != nullptr; }

  // Has `more` bytes to give and calls who waits.
  void open(uint64_t more = std::numeric_limits<uint64_t>::max());

  absl::StatusOr<Given> give(int pipe, uint64_t most) override;
  void when_ready(absl::AnyInvocable<void()> ready) override {
    ready_ = std::move(ready);
  }

 private:
  absl::AnyInvocable<void()> ready_;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MEMORY_STATE_H_
