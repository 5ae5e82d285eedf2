// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_CONNECTION_SCENARIO_H_
#define TESTS_FUZZ_CONNECTION_SCENARIO_H_

#include <cstddef>
#include <cstdint>

namespace vhost::user {

// How far an input came.
struct ConnectionScenario {
  size_t requests = 0;
  size_t replies = 0;         // Delivered.
  size_t refusals = 0;        // Of those, a u64 in place of a body.
  size_t descriptors = 0;     // Delivered with replies.
  bool all_answered = false;  // At the end, with at least one reply.
  bool overdue = false;       // Ended by a deadline.
  bool malformed = false;     // Ended by what it received.
};

// Reads `data` as what a front-end and its back-end do in turn to a Connection,
// and stops the program if it does what it must not.  An action a byte:
//   0 id flags     queue a request (flags: 1 need_reply, 2 with a descriptor)
//   1 n            the socket takes n bytes
//   2 n            the right reply to the oldest request sent, cut after n
//   bytes
//                  and then the rest
//   3 at bits      the same, with a byte of it changed
//   4 n bytes...   n bytes of anything
//   5 n            n * 100 ms pass
//   6 n            n descriptors come with the next bytes
//   7              SET_LOG_BASE is answered from now on
ConnectionScenario run_connection_scenario(const uint8_t* data, size_t size);

}  // namespace vhost::user

#endif  // TESTS_FUZZ_CONNECTION_SCENARIO_H_
