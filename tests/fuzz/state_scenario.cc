// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/state_scenario.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <span>
#include <utility>

#include "vhostdev/device_state.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost {
namespace {

constexpr uint64_t kMostChunk = 4096;

void check(bool holds) {
  if (!holds) std::abort();
}

// The same in the plainest way, all bytes at hand.
StateScenario read_plainly(std::span<const uint8_t> in) {
  StateScenario out;
  size_t at = 0;
  while (true) {
    if (in.size() - at < 4) {
      out.refused = true;
      return out;
    }
    uint64_t length = 0;
    for (int i = 0; i < 4; ++i) length = length << 8 | in[at++];
    if (length == 0) {
      out.ended = true;
      return out;
    }
    if (length > kMostChunk) {
      out.refused = true;
      return out;
    }
    const size_t there = std::min<size_t>(length, in.size() - at);
    out.bytes.append(in.begin() + static_cast<ptrdiff_t>(at),
                     in.begin() + static_cast<ptrdiff_t>(at + there));
    at += there;
    if (there < length) {
      out.refused = true;
      return out;
    }
  }
}

std::array<UniqueFd, 2> make_ends(bool socket) {
  std::array<int, 2> fds = {-1, -1};
  const int made =
      socket ? ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data())
             : ::pipe2(fds.data(), O_NONBLOCK);
  check(made == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};  // To read, to write.
}

void drain(const UniqueFd& pipe, std::string& into) {
  std::array<char, 8192> bytes;
  ssize_t got = 0;
  while ((got = ::read(pipe.get(), bytes.data(), bytes.size())) > 0) {
    into.append(bytes.data(), static_cast<size_t>(got));
  }
}

}  // namespace

StateScenario run_state_scenario(const uint8_t* data, size_t size) {
  if (size == 0) return {};
  const uint8_t how = data[0];
  const std::span<const uint8_t> stream(data + 1, size - 1);
  testing::ManualEventLoop loop;
  std::array<UniqueFd, 2> in = make_ends((how & 1) != 0);
  std::array<UniqueFd, 2> pipe = make_ends(false);
  QemuStateReader reader(
      loop, in[0],
      (how & 2) != 0 ? StateTransport::kCopy : StateTransport::kAuto,
      kMostChunk);
  const size_t piece = how >> 2 == 0 ? 4096 : how >> 2;
  StateScenario out;
  size_t at = 0;
  while (!out.ended && !out.refused) {
    const size_t count = std::min(piece, stream.size() - at);
    if (count > 0) {
      const ssize_t done = ::write(in[1].get(), stream.data() + at, count);
      if (done > 0) at += static_cast<size_t>(done);
    } else {
      in[1].reset();
    }
    const auto given = reader.give(pipe[1].get(), kMaxStateChunk);
    const size_t before = out.bytes.size();
    drain(pipe[0], out.bytes);
    if (!given.ok()) {
      check(absl::IsDataLoss(given.status()));
      out.refused = true;
      break;
    }
    check(out.bytes.size() - before == given->bytes);
    out.ended = given->ended;
  }
  const StateScenario plain = read_plainly(stream);
  check(out.ended == plain.ended && out.refused == plain.refused);
  check(out.bytes == plain.bytes);
  return out;
}

}  // namespace vhost
