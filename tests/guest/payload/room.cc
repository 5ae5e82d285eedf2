// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/payload/room.h"

#include "tests/guest/payload/boot.h"
#include "tests/guest/payload/memory.h"
#include "tools/vhostctl/unit_record.h"

namespace vhost::payload {

Mailbox* mailbox;

namespace {

u64 next_free;
u64 end_of_memory;
u32 failing;

[[noreturn]] void stop_here() {
  for (;;) wait_for_interrupt(get(interrupts_taken));
}

}  // namespace

void tell_state(State from, State to) {
  if (get(mailbox->state) == from && move<u32>(mailbox->state, from, to)) {
    out8(kDoorbellPort, static_cast<u8>(to));
  }
}

void fail(const char* what, u64 number) {
  if (move(failing, 0u, 1u)) {
    ctl::Words words(mailbox->failure);
    words << what << " " << number;
    set<u32>(mailbox->state, kFailed);
    out8(kDoorbellPort, kFailed);
  }
  stop_here();
}

void fail(const char* what) {
  if (move(failing, 0u, 1u)) {
    ctl::Words words(mailbox->failure);
    words << what;
    set<u32>(mailbox->state, kFailed);
    out8(kDoorbellPort, kFailed);
  }
  stop_here();
}

void give_memory(u64 begin, u64 end) {
  next_free = begin;
  end_of_memory = end;
}

void* allocate(u64 bytes, u64 align) {
  const u64 begin = (next_free + align - 1) & ~(align - 1);
  if (begin > end_of_memory || bytes > end_of_memory - begin) {
    fail("the guest's memory is too small: more is needed, in bytes:", bytes);
  }
  next_free = begin + bytes;
  void* memory = reinterpret_cast<void*>(begin);
  __builtin_memset(memory, 0, bytes);
  return memory;
}

void print(const char* text) {
  constexpr u16 kPort = 0x3f8;
  constexpr u16 kLineStatus = kPort + 5;
  constexpr u8 kEmpty = 0x20;
  const auto put = [](char letter) {
    while ((in8(kLineStatus) & kEmpty) == 0) pause();
    out8(kPort, static_cast<u8>(letter));
  };
  while (*text != 0) put(*text++);
  put('\n');
}

}  // namespace vhost::payload

// What the compiler calls of its own accord.
extern "C" {

void* memcpy(void* to, const void* from, unsigned long size) {
  void* const result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return result;
}

void* memset(void* to, int value, unsigned long size) {
  void* const result = to;
  asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return result;
}

}  // extern "C"
