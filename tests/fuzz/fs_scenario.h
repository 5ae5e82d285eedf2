// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FUZZ_FS_SCENARIO_H_
#define TESTS_FUZZ_FS_SCENARIO_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vhost {

// What became of a model file system that was sent requests out of a string
// of bytes.
struct FsScenario {
  uint32_t answered = 0;
  uint32_t opened = 0;
  uint32_t released = 0;
  uint32_t bytes_read = 0;
  uint32_t forgotten = 0;
  std::vector<int> errors;          // Of answers: an errno each.
  std::vector<std::string> broken;  // Why a ring would have broken.
};

// Each request is
//   flags:u8  bit 0: to queue 0; bit 1: says a wrong length; bits 2 to 7:
//             bytes of each piece of memory, less 1
//   operation:u8 node:u8 room:u16 size:u8 arguments...
// `room`, modulo 1024, is that of the answer; 32 requests count.  Aborts where
// an answer is not what the protocol allows.
FsScenario run_fs_scenario(const uint8_t* data, size_t size);

}  // namespace vhost

#endif  // TESTS_FUZZ_FS_SCENARIO_H_
