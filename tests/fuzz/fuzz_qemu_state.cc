// SPDX-License-Identifier: Apache-2.0
// A state in QEMU's stream, as nobody should have written it.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/state_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 65536) return -1;
  vhost::run_state_scenario(data, size);
  return 0;
}
