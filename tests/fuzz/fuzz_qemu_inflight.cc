// SPDX-License-Identifier: Apache-2.0
//
// QEMU's bytes of an inflight area: what is read of them is written, and is
// what was read.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "vhostdev/qemu_inflight.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  using Form = vhost::QemuInflightForm;
  for (const Form form : {Form::kPlain, Form::kSubsection}) {
    const auto read = vhost::decode_qemu_inflight(bytes, form);
    if (!read.ok() || !read->has_value()) continue;
    const auto again = vhost::encode_qemu_inflight((*read)->inflight, form);
    const bool same = again.size() == (*read)->bytes &&
                      std::equal(again.begin(), again.end(), bytes.begin());
    if (!same) std::abort();
  }
  return 0;
}
