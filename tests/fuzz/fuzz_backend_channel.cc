// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/channel_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::user::run_channel_scenario(data, size);
  return 0;
}
