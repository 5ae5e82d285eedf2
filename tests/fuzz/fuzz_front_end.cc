// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/front_end_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::user::run_front_end_scenario(data, size);
  return 0;
}
