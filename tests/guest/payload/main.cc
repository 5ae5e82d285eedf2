// SPDX-License-Identifier: Apache-2.0
//
// The payload: a guest without kernel that drives virtio-mmio disks and network
// devices, and judges what they did.  See mailbox.h and boot.h.
#include "tests/guest/payload/boot.h"
#include "tests/guest/payload/driver.h"
#include "tests/guest/payload/memory.h"
#include "tests/guest/payload/place.h"
#include "tests/guest/payload/tree.h"
#include "tools/vhostctl/unit_record.h"

extern "C" char payload_end[];

namespace vhost::payload {
namespace {

Driver* driver;
u32 ready;

void set_gate(u32 vector, u64 entry) {
  constexpr u64 kPresentGate = 0x8e00;  // Interrupts off; not for CPL 3.
  u64* const gate = reinterpret_cast<u64*>(kIdtGpa) + 2 * vector;
  gate[0] = (entry & 0xffff) | u64{kGateSelector} << 16 | kPresentGate << 32 |
            (entry >> 16 & 0xffff) << 48;
  gate[1] = entry >> 32;
}

// Vectors 32 to 47 are the lines of the 8259.
constexpr u32 kFirstLineVector = 32;

void fill_interrupt_table() {
  for (u32 i = 0; i < 32; ++i) set_gate(i, exception_entries[i]);
  for (u32 i = 0; i < 16; ++i) set_gate(kFirstLineVector + i, line_entries[i]);
}

// Both 8259: edge triggered, each interrupt ends itself, those of `lines` let
// through.
void set_up_8259(u32 lines) {
  constexpr u16 kFirst = 0x20;
  constexpr u16 kSecond = 0xa0;
  constexpr u8 kInitialise = 0x11;
  constexpr u8 kAutomaticEnd = 0x03;
  constexpr u32 kCascade = 2;
  constexpr u16 kPorts[] = {kFirst, kSecond};
  for (const u16 port : kPorts) {
    const bool first = port == kFirst;
    out8(port, kInitialise);
    out8(port + 1, static_cast<u8>(kFirstLineVector + (first ? 0 : 8)));
    out8(port + 1, first ? 1u << kCascade : kCascade);
    out8(port + 1, kAutomaticEnd);
  }
  lines |= 1u << kCascade;
  out8(kFirst + 1, static_cast<u8>(~lines));
  out8(kSecond + 1, static_cast<u8>(~lines >> 8));
}

// The memory behind the payload, as far as it goes on.
void find_memory(const TreeFacts& tree) {
  const u64 end = reinterpret_cast<u64>(payload_end);
  for (u32 i = 0; i < tree.memories; ++i) {
    const TreeRange& memory = tree.memory[i];
    if (end >= memory.address && end - memory.address < memory.size) {
      return give_memory(end, memory.address + memory.size);
    }
  }
  fail("the device tree knows no memory where the payload is");
}

void say_what_is_there(u32 cpus) {
  char line[128];
  ctl::Words words(line);
  words << "payload: " << mailbox->disks << " disks with " << mailbox->queues
        << " queues, " << mailbox->nets << " nets, " << cpus << " vCPUs";
  print(line);
}

void set_up(u32 cpus, const unsigned char* bytes) {
  fill_interrupt_table();
  constexpr u64 kMostTree = u64{1} << 20;
  TreeFacts tree;
  const char* const wrong = TreeReader(bytes, kMostTree).read(tree);
  mailbox = reinterpret_cast<Mailbox*>(tree.mailbox.address);
  // Nobody would hear of it: this is an exception instead.
  if (tree.mailbox.size < sizeof(Mailbox)) __builtin_trap();
  if (mailbox->magic != kMailboxMagic) __builtin_trap();
  if (wrong != nullptr) fail(wrong);
  if (mailbox->version != kMailboxVersion) {
    fail("the mailbox has version", mailbox->version);
  }
  if (mailbox->depth == 0) fail("no requests are to be in flight");
  if (cpus == 0 || cpus > kMaxCpus) fail("too many vCPUs:", cpus);
  find_memory(tree);
  u32 lines = 1u << kWatchdogLine;
  for (u32 i = 0; i < tree.device_count; ++i) {
    if (tree.devices[i].has_line) lines |= 1u << (tree.devices[i].line & 15);
  }
  set_up_8259(lines);
  interrupts_on();
  driver = new (allocate(sizeof(Driver), alignof(Driver))) Driver;
  driver->set_up(tree, cpus);
  say_what_is_there(cpus);
  tell_state(kStarting, kRunning);
}

}  // namespace
}  // namespace vhost::payload

extern "C" void payload_main(unsigned cpu, unsigned cpus,
                             const unsigned char* tree) {
  using namespace vhost::payload;
  if (cpu == 0) {
    set_up(cpus, tree);
    set(ready, 1u);
  } else {
    while (get(ready) == 0) pause();
  }
  driver->run(cpu);
}
