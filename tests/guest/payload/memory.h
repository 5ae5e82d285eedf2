// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_MEMORY_H_
#define TESTS_GUEST_PAYLOAD_MEMORY_H_

#include "tests/guest/payload/mailbox.h"

namespace vhost::payload {

// What allocate() hands out from.
void give_memory(u64 begin, u64 end);

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_MEMORY_H_
