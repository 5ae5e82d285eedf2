// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/elf_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/minivm/machine/elf_bytes.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/machine/payload_elf.h"
#include "vhostdev/testing/fake_vmm.h"

namespace vhost::minivm {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::vector<std::byte>& file) {
  const absl::StatusOr<ElfProgram> program = parse_elf(file);
  if (program.ok()) return "";
  EXPECT_EQ(program.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(program.status().message());
}

TEST(ElfLoader, ReadsAnExecutable) {
  const std::vector<std::byte> file = ElfBytes().bytes();
  const absl::StatusOr<ElfProgram> program = parse_elf(file);
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_EQ(program->entry, 0x10'0002u);
  ASSERT_EQ(program->segments.size(), 1u);
  EXPECT_EQ(program->segments[0].gpa, 0x10'0000u);
  EXPECT_EQ(program->segments[0].size, 16u);
  EXPECT_EQ(program->segments[0].bytes.size(), 4u);
}

TEST(ElfLoader, ReadsThePayload) {
  const absl::StatusOr<ElfProgram> program = parse_elf(payload_elf());
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_EQ(program->entry, kPayloadGpa);
}

TEST(ElfLoader, RefusesEveryTruncation) {
  const std::vector<std::byte> whole = ElfBytes().bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::vector<std::byte> part(whole.begin(),
                                      whole.begin() + static_cast<long>(size));
    EXPECT_NE(refusal(part), "") << size;
  }
}

TEST(ElfLoader, RefusesAnotherMachine) {
  ElfBytes elf;
  elf.header.e_machine = EM_AARCH64;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("not for x86-64"));
}

TEST(ElfLoader, RefusesWhatCanBeAnywhere) {
  ElfBytes elf;
  elf.header.e_type = ET_DYN;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("fixed addresses"));
}

TEST(ElfLoader, RefusesWhatNeedsALoader) {
  ElfBytes elf;
  elf.segment.p_type = PT_INTERP;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("dynamically linked"));
}

TEST(ElfLoader, RefusesAnEntryInNoSegment) {
  ElfBytes elf;
  elf.header.e_entry = 0x10'0010;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("entry"));
}

TEST(ElfLoader, RefusesASegmentThatIsNotInTheFile) {
  ElfBytes elf;
  elf.segment.p_offset = UINT64_MAX - 1;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("not within the file"));
}

TEST(ElfLoader, RefusesASegmentThatIsSmallerInMemory) {
  ElfBytes elf;
  elf.segment.p_memsz = 3;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("more bytes in the file"));
}

TEST(ElfLoader, RefusesASegmentThatWraps) {
  ElfBytes elf;
  elf.segment.p_paddr = UINT64_MAX - 4;
  EXPECT_THAT(refusal(elf.bytes()), HasSubstr("wraps"));
}

TEST(ElfLoader, RefusesHeadersThatWrap) {
  ElfBytes elf;
  elf.header.e_phoff = UINT64_MAX - 3;
  elf.header.e_phnum = 2;
  EXPECT_NE(refusal(elf.bytes()), "");
}

TEST(ElfLoader, PutsSegmentsIntoMemoryAndClearsTheirRest) {
  AddressSpace memory;
  const auto ram = testing::add_memory(memory, 0, 2 << 20);
  ASSERT_NE(ram, nullptr);
  std::byte* const place = memory.translate(0x10'0000, 17);
  std::fill_n(place, 17, std::byte{0xee});
  const std::vector<std::byte> file = ElfBytes().bytes();
  ASSERT_EQ(load_elf(*parse_elf(file), memory, 0x10'0000), absl::OkStatus());
  EXPECT_EQ(place[3], std::byte{0x90});
  EXPECT_EQ(place[4], std::byte{0});
  EXPECT_EQ(place[15], std::byte{0});
  EXPECT_EQ(place[16], std::byte{0xee});
}

TEST(ElfLoader, RefusesASegmentWithoutMemoryOrTooLow) {
  AddressSpace memory;
  const auto ram = testing::add_memory(memory, 0, 1 << 20);
  const std::vector<std::byte> file = ElfBytes().bytes();
  const absl::StatusOr<ElfProgram> program = parse_elf(file);
  ASSERT_TRUE(program.ok());
  EXPECT_EQ(load_elf(*program, memory, 0).code(),
            absl::StatusCode::kInvalidArgument);
  const auto more = testing::add_memory(memory, 1 << 20, 1 << 20);
  EXPECT_EQ(load_elf(*program, memory, 0), absl::OkStatus());
  EXPECT_EQ(load_elf(*program, memory, 0x10'0001).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace vhost::minivm
