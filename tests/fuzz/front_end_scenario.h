// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_FRONT_END_SCENARIO_H_
#define TESTS_FUZZ_FRONT_END_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace vhost::user {

// How far an input came.
struct FrontEndScenario {
  std::set<std::string> done;  // Verbs that succeeded.
  bool refused = false;        // A verb was refused by the back-end.
  bool malformed = false;      // The connection ended by what came.
  bool silent = false;         // A verb had to be ended by a close.
};

// Everything vhost-user does with what its messages say: a VhostUserOps over a
// socket, and behind it a back-end made of `data`.  Stops the program if a verb
// does not complete exactly once, or if its result contradicts itself.
//
//   features:u64 protocol_features:u64 queue_num:u64 slots:u64 (each what the
//   right answer is, xor these bytes)
// then, until the end, a byte for each verb, which also says how each request
// of it is answered:
//   0x00..0x7f     by the rules
//   0x80..0xff     mischief:u8 for each reply:
//       0..127     by the rules
//       128..159   a u64, the next byte
//       160..191   the right size, bytes from the input
//       192..207   n:u8, then n bytes instead of a reply
//       208..223   the right reply, with a descriptor more
//       224..239   no reply
//       240..255   the end of the connection
FrontEndScenario run_front_end_scenario(const uint8_t* data, size_t size);

}  // namespace vhost::user

#endif  // TESTS_FUZZ_FRONT_END_SCENARIO_H_
