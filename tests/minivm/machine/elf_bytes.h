// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_MINIVM_MACHINE_ELF_BYTES_H_
#define TESTS_MINIVM_MACHINE_ELF_BYTES_H_

#include <elf.h>

#include <cstddef>
#include <cstring>
#include <vector>

namespace vhost::minivm {

// A small executable: header, one program header, four bytes of code that take
// 16 in memory.
struct ElfBytes {
  Elf64_Ehdr header{};
  Elf64_Phdr segment{};

  ElfBytes() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = 0x10'0002;
    header.e_phoff = sizeof(header);
    header.e_ehsize = sizeof(header);
    header.e_phentsize = sizeof(segment);
    header.e_phnum = 1;
    segment.p_type = PT_LOAD;
    segment.p_offset = sizeof(header) + sizeof(segment);
    segment.p_vaddr = segment.p_paddr = 0x10'0000;
    segment.p_filesz = 4;
    segment.p_memsz = 16;
  }

  std::vector<std::byte> bytes() const {
    std::vector<std::byte> out(sizeof(header) + sizeof(segment) + 4,
                               std::byte{0x90});
    std::memcpy(out.data(), &header, sizeof(header));
    std::memcpy(out.data() + sizeof(header), &segment, sizeof(segment));
    return out;
  }
};

}  // namespace vhost::minivm

#endif  // TESTS_MINIVM_MACHINE_ELF_BYTES_H_
