// SPDX-License-Identifier: Apache-2.0
//
// See stream_scenario.h.
#include "tests/fuzz/stream_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::run_stream_scenario(std::span(data, size));
  return 0;
}
