// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MIGRATION_STATE_RECORDS_KIT_H_
#define TESTS_MIGRATION_STATE_RECORDS_KIT_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "migration/bytes.h"
#include "migration/stream_state.h"
#include "tests/migration/stream_kit.h"
#include "vhostdev/testing/manual_event_loop.h"

// States of back-ends as records, with real pipes.

namespace vhost {

// A non-blocking pipe or socket pair, `in` to write and `out` to read.
struct Pair {
  UniqueFd out;
  UniqueFd in;

  static Pair pipe() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    EXPECT_GT(::fcntl(fds[0], F_SETPIPE_SZ, 1 << 20), 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }
  static Pair sockets() {
    int fds[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                           0, fds),
              0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
  }

  void write(std::span<const std::byte> bytes) const {
    EXPECT_EQ(::write(in.get(), bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  // All that can be read now.
  Bytes read() const {
    Bytes all, some(64 << 10);
    for (ssize_t got = 0;
         (got = ::read(out.get(), some.data(), some.size())) > 0;) {
      all.insert(all.end(), some.begin(), some.begin() + got);
    }
    return all;
  }
};

inline Bytes pattern(size_t size, unsigned seed) {
  Bytes out(size);
  uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : out) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return out;
}

inline Bytes qemu_chunk(std::span<const std::byte> bytes) {
  Bytes out;
  put(out, static_cast<uint32_t>(bytes.size()));
  put(out, bytes);
  return out;
}

inline StreamRecord state_record(const Bytes& payload) {
  return {.type = RecordType::kBackendState, .id = 9, .payload = payload};
}

class StateRecords : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(writer_.record(RecordType::kManifest, 0, {}).ok());
    ASSERT_TRUE(bare_.record(RecordType::kManifest, 0, {}).ok());
  }

  testing::ManualEventLoop loop_;
  StreamWriter writer_;
  StreamWriter bare_ = StreamWriter(Integrity::kTransport);
};

}  // namespace vhost

#endif  // TESTS_MIGRATION_STATE_RECORDS_KIT_H_
