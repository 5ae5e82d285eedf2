// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MACHINE_ELF_LOADER_H_
#define TOOLS_MINIVM_MACHINE_ELF_LOADER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/memory.h"

namespace vhost::minivm {

// A statically linked x86-64 program.
struct ElfProgram {
  // What goes where; the rest of `size` is zero.
  struct Segment {
    uint64_t gpa = 0;
    uint64_t size = 0;  // Bytes in memory, at least those in the file.
    std::span<const std::byte> bytes;
  };
  uint64_t entry = 0;  // Within a segment.
  std::vector<Segment> segments;
};

// What is to be loaded of `file`, which the result borrows from.  Any bytes may
// be there.
// Errors: kInvalidArgument  not a little-endian, 64-bit, x86-64 executable
//                           (ET_EXEC), or one that contradicts itself.
// Source: System V ABI, "Object Files", "Program Header".
absl::StatusOr<ElfProgram> parse_elf(std::span<const std::byte> file);

// Puts it into `memory`, all of it at `lowest` or above.
// Errors: kInvalidArgument  a segment is not wholly in RAM, or below that.
absl::Status load_elf(const ElfProgram& program, const AddressSpace& memory,
                      uint64_t lowest);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MACHINE_ELF_LOADER_H_
