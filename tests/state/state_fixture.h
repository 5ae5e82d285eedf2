// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_STATE_STATE_FIXTURE_H_
#define TESTS_STATE_STATE_FIXTURE_H_

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "tests/badinput/footprint.h"
#include "tests/virtio/device_fixture.h"
#include "vhostdev/device_state.h"
#include "vhostdev/testing/memory_state.h"

namespace vhost {

// A connected device over a FakeVhostOps whose end of the channel the test
// plays.
class StateTest : public DeviceTest {
 protected:
  ~StateTest() override {
    dev.reset();
    EXPECT_EQ(badinput::Footprint::now().fds, descriptors_);
  }

  static BackendTraits with_state() {
    BackendTraits traits = testing::like_vhost_user();
    traits.has_device_state = true;
    return traits;
  }

  void make_stateful(BackendTraits traits = with_state()) {
    make_ready(std::move(traits));
  }

  // Begins; the loop turns as far as it goes.
  Outcome save() {
    Outcome outcome;
    dev->save_state(sink, limits, outcome.completion());
    EXPECT_FALSE(outcome.over()) << "completed inside the call";
    loop.run_ready();
    return outcome;
  }
  Outcome load() {
    Outcome outcome;
    dev->load_state(source, limits, outcome.completion());
    EXPECT_FALSE(outcome.over()) << "completed inside the call";
    loop.run_ready();
    return outcome;
  }

  // The back-end writes `bytes`, as many as there is room for.
  void give(const std::string& bytes) {
    make_nonblocking(ops->backend.state);
    EXPECT_EQ(::write(ops->backend.state.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
    loop.run_ready();
  }
  void close_state() {
    ops->backend.state.reset();
    loop.run_ready();
  }
  // What the back-end can read now.
  std::string take() {
    make_nonblocking(ops->backend.state);
    std::string out(size_t{1} << 20, '\0');
    const ssize_t got =
        ::read(ops->backend.state.get(), out.data(), out.size());
    out.resize(got > 0 ? static_cast<size_t>(got) : 0);
    loop.run_ready();
    return out;
  }
  // Whether the back-end sees the end of the state.
  bool sees_end() {
    make_nonblocking(ops->backend.state);
    char byte = 0;
    return ::read(ops->backend.state.get(), &byte, 1) == 0;
  }
  static void make_nonblocking(const UniqueFd& fd) {
    const int flags = ::fcntl(fd.get(), F_GETFL);
    ASSERT_EQ(::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK), 0);
  }

  testing::MemoryStateSink sink;
  testing::MemoryStateSource source{"state"};
  StateLimits limits;

 private:
  const size_t descriptors_ = badinput::Footprint::now().fds;
};

}  // namespace vhost

#endif  // TESTS_STATE_STATE_FIXTURE_H_
