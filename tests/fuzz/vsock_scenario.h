// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_VSOCK_SCENARIO_H_
#define TESTS_FUZZ_VSOCK_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vhost {

// What became of a guest's streams, used by somebody and sent packets by a host
// as a string of bytes says.
struct VsockScenario {
  uint32_t accepted = 0;
  uint32_t connected = 0;
  uint32_t agreed = 0;  // Closed as both sides wanted.
  uint32_t refused = 0;
  uint32_t sent = 0;      // Bytes.
  uint32_t received = 0;  // Bytes.
  uint32_t stray = 0;
  uint32_t torn = 0;                // Packets that were none.
  std::vector<std::string> broken;  // Why a stream ended.
};

// Input: records of 8 bytes: what, which, a u16, a u32.  Bit 7 of `what`: the
// host sends a packet of operation `what` & 15 between the guest's port 1 +
// (`which` & 3) and its own 1 + (`which` >> 2 & 3), with u16 bytes, and u32 as
// flags (SHUTDOWN), count of bytes taken (bit 6) or size of its buffer; bit 5
// and bit 4 make its type and its CID wrong.  Otherwise the guest does what it
// says.
//
// Aborts where an answer is wrong: more credit used than given, more kept than
// allowed, a stream that comes back.
VsockScenario run_vsock_scenario(const uint8_t* data, size_t size);

}  // namespace vhost

#endif  // TESTS_FUZZ_VSOCK_SCENARIO_H_
