// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_RING_SCENARIO_H_
#define TESTS_FUZZ_RING_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace vhost {

// How far an input came.
struct RingScenario {
  size_t submitted = 0;
  size_t completed = 0;
  size_t taken_back = 0;
  size_t kicks = 0;
  bool slept = false;     // Interrupts were enabled with nothing to poll.
  std::string broken_by;  // What the device did; empty: nothing.
};

// Reads `data` as a sequence of what a driver asks of its ring and what a
// device writes to the memory they share, and stops the program if the ring
// does what it must not: completes a request twice or never, reports bytes that
// were not writable, miscounts.
//   setup:u8     bits 0-3 log2 of the size (at most 8), bit 4 event index, bit
//                5 indirect tables
//   first:u16    where the indices start
//   then steps, a byte (modulo 12) and what follows it:
//     0 submit            shape:u8 (bits 0-1 readable, 2-3 writable buffers),
//                         length:u16 of each
//     1 cancel            shape:u8, length:u16
//     2 poll              batch:u8
//     3 publish
//     4 enable_interrupts
//     5 disable_interrupts
//     6 the device completes the next available request, written:u8
//     7 it writes a used entry      at:u16 id:u32 written:u32
//     8 it moves the used index     by:u16
//     9 it writes its event index   value:u16
//    10 it writes anywhere          at:u16 value:u8
//    11 it writes the used flags    value:u16
RingScenario run_ring_scenario(const uint8_t* data, size_t size);

}  // namespace vhost

#endif  // TESTS_FUZZ_RING_SCENARIO_H_
