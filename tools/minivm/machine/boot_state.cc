// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/boot_state.h"

#include <cstring>
#include <span>

#include "absl/strings/str_cat.h"
#include "tests/guest/payload/boot.h"

namespace vhost::minivm {
namespace {

using payload::kIdtGpa;
using payload::kMaxCpus;

// Where it all lies, below the mailbox.
constexpr uint64_t kGdt = 0x1000;
constexpr uint64_t kTss = 0x2000;  // One after another.
constexpr uint64_t kTssSize = 0x68;
constexpr uint64_t kTssStride = 0x100;
constexpr uint64_t kIdtSize = 0x1000;
constexpr uint64_t kStacks = 0x4000;  // Of CPL 0, one page for each vCPU.
constexpr uint64_t kPage = 0x1000;
constexpr uint64_t kRootTable = 0x1'0000;
constexpr uint64_t kGiBTable = 0x1'1000;   // An entry for each GiB.
constexpr uint64_t kMiBTables = 0x1'2000;  // 2 MiB each, a page for each GiB.
constexpr uint64_t kMappedGiB = 8;
constexpr uint64_t kEnd = kMiBTables + kMappedGiB * kPage;
static_assert(kTss + kMaxCpus * kTssStride <= kIdtGpa);
static_assert(kIdtGpa + kIdtSize <= kStacks);
static_assert(kStacks + kMaxCpus * kPage <= kRootTable);

constexpr uint16_t kKernelCode = payload::kGateSelector;
constexpr uint16_t kUserData = 0x2b;  // RPL 3.
constexpr uint16_t kUserCode = 0x33;
constexpr uint16_t kTaskSelector = 0x38;
constexpr uint64_t kDescriptors[] = {
    0,
    0x00af'9b00'0000'ffff,  // 0x08: 64-bit code, CPL 0.
    0x00cf'9300'0000'ffff,  // 0x10: data, CPL 0.
    0,
    0,
    0x00cf'f300'0000'ffff,  // 0x28: data, CPL 3.
    0x00af'fb00'0000'ffff,  // 0x30: 64-bit code, CPL 3.
    0,                      // 0x38: the task segment, whose register is set.
    0,
};
static_assert(kKernelCode == 0x08);

constexpr uint64_t kPresent = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kUser = 4;
constexpr uint64_t kUncached = 0x10;
constexpr uint64_t kLargePage = 0x80;
constexpr uint64_t kTable = kPresent | kWritable | kUser;

void write64(std::byte* memory, uint64_t gpa, uint64_t value) {
  std::memcpy(memory + gpa, &value, sizeof(value));
}

void write_page_tables(std::byte* memory) {
  write64(memory, kRootTable, kGiBTable | kTable);
  for (uint64_t gib = 0; gib < kMappedGiB; ++gib) {
    const uint64_t table = kMiBTables + gib * kPage;
    write64(memory, kGiBTable + 8 * gib, table | kTable);
    // Devices are in the fourth.
    const uint64_t kind = kTable | kLargePage | (gib == 3 ? kUncached : 0);
    for (uint64_t i = 0; i < 512; ++i) {
      write64(memory, table + 8 * i, (gib << 30 | i << 21) | kind);
    }
  }
}

uint64_t kernel_stack(uint32_t cpu) { return kStacks + (cpu + 1) * kPage; }

kvm_segment segment(uint16_t selector, uint8_t type, bool code) {
  kvm_segment result{};
  result.limit = 0xffff'ffff;
  result.selector = selector;
  result.type = type;
  result.present = 1;
  result.dpl = selector & 3;
  result.db = code ? 0 : 1;
  result.s = 1;
  result.l = code ? 1 : 0;
  result.g = 1;
  return result;
}

}  // namespace

absl::Status write_boot_memory(const AddressSpace& memory) {
  std::byte* const host = memory.translate(0, kEnd);
  if (host == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("boot: no RAM in the first ", kEnd, " bytes"));
  }
  std::memset(host, 0, kEnd);
  std::memcpy(host + kGdt, kDescriptors, sizeof(kDescriptors));
  for (uint32_t cpu = 0; cpu < kMaxCpus; ++cpu) {
    constexpr uint64_t kStack0 = 4;  // Where a task segment has CPL 0's RSP.
    write64(host, kTss + cpu * kTssStride + kStack0, kernel_stack(cpu));
  }
  write_page_tables(host);
  return absl::OkStatus();
}

void set_boot_state(kvm_sregs& sregs, uint32_t cpu) {
  constexpr uint8_t kCodeType = 11;  // Execute, read, accessed.
  constexpr uint8_t kDataType = 3;   // Read, write, accessed.
  constexpr uint8_t kBusyTask = 11;
  sregs.cs = segment(kUserCode, kCodeType, /*code=*/true);
  sregs.ss = segment(kUserData, kDataType, /*code=*/false);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss;
  sregs.tr = kvm_segment{};
  sregs.tr.base = kTss + cpu * kTssStride;
  sregs.tr.limit = kTssSize - 1;
  sregs.tr.selector = kTaskSelector;
  sregs.tr.type = kBusyTask;
  sregs.tr.present = 1;
  sregs.gdt.base = kGdt;
  sregs.gdt.limit = sizeof(kDescriptors) - 1;
  sregs.idt.base = kIdtGpa;
  sregs.idt.limit = kIdtSize - 1;
  sregs.cr0 = 0x8005'0033;  // PG, AM, WP, NE, ET, MP, PE.
  sregs.cr3 = kRootTable;
  sregs.cr4 = 0x620;   // PAE, OSFXSR, OSXMMEXCPT.
  sregs.efer = 0x501;  // LMA, LME, SCE.
}

kvm_regs boot_registers(uint64_t entry, uint64_t tree, uint32_t cpu,
                        uint32_t cpus) {
  kvm_regs regs{};
  regs.rip = entry;
  regs.rflags = 0x3002;  // IOPL 3, interrupts off.
  regs.rdi = cpu;
  regs.rsi = cpus;
  regs.rdx = tree;
  return regs;
}

}  // namespace vhost::minivm
