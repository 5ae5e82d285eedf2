// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/fs_scenario.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::run_fs_scenario(data, size);
  return 0;
}
