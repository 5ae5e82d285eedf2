// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/vsock_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::run_vsock_scenario(data, size);
  return 0;
}
