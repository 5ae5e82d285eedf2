// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_PAYLOAD_ELF_H_
#define TOOLS_MINIVM_MACHINE_PAYLOAD_ELF_H_

#include <cstddef>
#include <span>

namespace vhost::minivm {

// The payload that this program was built with (tests/guest/payload).
std::span<const std::byte> payload_elf();

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_PAYLOAD_ELF_H_
