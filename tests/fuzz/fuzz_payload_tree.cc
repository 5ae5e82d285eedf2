// SPDX-License-Identifier: Apache-2.0
//
// A device tree of any bytes, as minivm's payload reads one.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "tests/guest/payload/tree.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using vhost::payload::TreeFacts;
  // Of its own, so that a read beyond its end is noticed.
  const std::vector<uint8_t> bytes(data, data + size);
  TreeFacts facts;
  const char* wrong =
      vhost::payload::TreeReader(bytes.data(), bytes.size()).read(facts);
  if (facts.device_count > TreeFacts::kMaxDevices) std::abort();
  if (facts.memories > TreeFacts::kMaxMemory) std::abort();
  if (wrong != nullptr && *wrong == 0) std::abort();
  return 0;
}
