// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/payload_elf.h"

// The build says which file that is.
asm(R"(
	.section .rodata.payload, "a", @progbits
	.balign 16
	.globl minivm_payload_begin, minivm_payload_end
minivm_payload_begin:
	.incbin ")" MINIVM_PAYLOAD R"("
minivm_payload_end:
	.previous
)");

extern "C" {
extern const std::byte minivm_payload_begin[];
extern const std::byte minivm_payload_end[];
}

namespace vhost::minivm {

std::span<const std::byte> payload_elf() {
  return {minivm_payload_begin, minivm_payload_end};
}

}  // namespace vhost::minivm
