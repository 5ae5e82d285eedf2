// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/elf_loader.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

absl::Status invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("ELF: ", what));
}

// The T at `offset` of `file`; nothing where it does not lie within.
template <typename T>
std::optional<T> at(std::span<const std::byte> file, uint64_t offset) {
  if (offset > file.size() || file.size() - offset < sizeof(T)) {
    return std::nullopt;
  }
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}

absl::Status check_header(const Elf64_Ehdr& header) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return invalid("no ELF file");
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_machine != EM_X86_64) {
    return invalid("not for x86-64");
  }
  if (header.e_type != ET_EXEC) {
    return invalid("not an executable with fixed addresses");
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return invalid(
        absl::StrCat("program headers of ", header.e_phentsize, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ElfProgram::Segment> parse_segment(
    std::span<const std::byte> file, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz) {
    return invalid("a segment has more bytes in the file than in memory");
  }
  if (header.p_offset > file.size() ||
      header.p_filesz > file.size() - header.p_offset) {
    return invalid("a segment is not within the file");
  }
  if (header.p_paddr + header.p_memsz < header.p_paddr) {
    return invalid("a segment wraps");
  }
  return ElfProgram::Segment{
      .gpa = header.p_paddr,
      .size = header.p_memsz,
      .bytes = file.subspan(header.p_offset, header.p_filesz)};
}

}  // namespace

absl::StatusOr<ElfProgram> parse_elf(std::span<const std::byte> file) {
  const auto header = at<Elf64_Ehdr>(file, 0);
  if (!header.has_value()) return invalid("shorter than its header");
  VHOST_RETURN_IF_ERROR(check_header(*header));
  ElfProgram program;
  program.entry = header->e_entry;
  bool entry_found = false;
  for (uint32_t i = 0; i < header->e_phnum; ++i) {
    const uint64_t offset = uint64_t{i} * sizeof(Elf64_Phdr);
    if (header->e_phoff > UINT64_MAX - offset) return invalid("headers wrap");
    const auto entry = at<Elf64_Phdr>(file, header->e_phoff + offset);
    if (!entry.has_value()) return invalid("program headers are cut off");
    if (entry->p_type == PT_INTERP || entry->p_type == PT_DYNAMIC) {
      return invalid("dynamically linked");
    }
    if (entry->p_type != PT_LOAD || entry->p_memsz == 0) continue;
    const auto segment = parse_segment(file, *entry);
    if (!segment.ok()) return segment.status();
    entry_found = entry_found || (program.entry >= segment->gpa &&
                                  program.entry - segment->gpa < segment->size);
    program.segments.push_back(*segment);
  }
  if (!entry_found) return invalid("its entry is in no segment");
  return program;
}

absl::Status load_elf(const ElfProgram& program, const AddressSpace& memory,
                      uint64_t lowest) {
  for (const ElfProgram::Segment& segment : program.segments) {
    std::byte* const host = memory.translate(segment.gpa, segment.size);
    if (host == nullptr || segment.gpa < lowest) {
      return invalid(absl::StrCat("the segment of ", segment.size,
                                  " bytes at 0x", absl::Hex(segment.gpa),
                                  " has no place in the guest's memory"));
    }
    const auto end =
        std::copy(segment.bytes.begin(), segment.bytes.end(), host);
    std::fill(end, host + segment.size, std::byte{0});
  }
  return absl::OkStatus();
}

}  // namespace vhost::minivm
