// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_CHANNEL_SCENARIO_H_
#define TESTS_FUZZ_CHANNEL_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace vhost::user {

// How far an input came.
struct ChannelScenario {
  std::set<std::string> served;  // Requests that reached the host.
  size_t answers = 0;            // Whole ones sent.
  bool malformed = false;        // The channel ended.
};

// Reads `data` as what a back-end sends on its channel, and stops the program
// if the channel does what it must not.
//   features:u32   protocol features negotiated
//   then pieces of the stream: n bytes..., n up to 127; with the top bit of n
//   set one descriptor comes along
ChannelScenario run_channel_scenario(const uint8_t* data, size_t size);

}  // namespace vhost::user

#endif  // TESTS_FUZZ_CHANNEL_SCENARIO_H_
