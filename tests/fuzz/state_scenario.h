// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_STATE_SCENARIO_H_
#define TESTS_FUZZ_STATE_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace vhost {

// What a QemuStateReader made of an input.
struct StateScenario {
  std::string bytes;  // Of the state.
  bool ended = false;
  bool refused = false;
};

// Reads `data` as a stream of QEMU's, that comes in pieces, and stops the
// program if the reader does not say of it what a plain one says.
//   how:u8   bit 0: through a socket, otherwise a pipe; bit 1: by copy; bits
//            2-7: bytes of a piece, 0: all
//   the stream
StateScenario run_state_scenario(const uint8_t* data, size_t size);

}  // namespace vhost

#endif  // TESTS_FUZZ_STATE_SCENARIO_H_
