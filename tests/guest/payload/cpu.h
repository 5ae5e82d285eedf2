// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_CPU_H_
#define TESTS_GUEST_PAYLOAD_CPU_H_

// What the processor is asked for directly, and memory that several vCPUs or
// minivm share.

#include "tests/guest/payload/mailbox.h"

namespace vhost::payload {

using u8 = unsigned char;
using u16 = unsigned short;

inline void out8(u16 port, u8 value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline u8 in8(u16 port) {
  u8 value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline void pause() { asm volatile("pause" : : : "memory"); }
// The time stamp counter, whose unit is some fraction of a nanosecond.
inline u64 clock() {
  u32 low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return u64{high} << 32 | low;
}
inline void interrupts_on() { asm volatile("sti" : : : "memory"); }
inline void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Registers of devices, by the plainest instructions that there are: whoever
// emulates them decodes those.
inline u32 read32(u64 address) {
  u32 value;
  asm volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
  return value;
}
inline void write32(u64 address, u32 value) {
  asm volatile("movl %0, (%1)" : : "r"(value), "r"(address) : "memory");
}

template <typename T>
T get(const T& shared) {
  return __atomic_load_n(&shared, __ATOMIC_SEQ_CST);
}
template <typename T>
void set(T& shared, T value) {
  __atomic_store_n(&shared, value, __ATOMIC_SEQ_CST);
}
// The same where it mostly is so already: that costs no more than a look.
template <typename T>
void keep(T& shared, T value) {
  if (get(shared) != value) set(shared, value);
}
// What it is then.
template <typename T>
T add(T& shared, T value) {
  return __atomic_add_fetch(&shared, value, __ATOMIC_SEQ_CST);
}
// Whether it was `from`, and is `to` now.
template <typename T>
bool move(T& shared, T from, T to) {
  return __atomic_compare_exchange_n(&shared, &from, to, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

// entry.S.
extern "C" {
extern u32 line_counts[16];  // Interrupts taken, of each line of the 8259.
extern u32 interrupts_taken;
extern const u64 line_entries[16];
extern const u64 exception_entries[32];
void wait_for_interrupt(u32 seen);
}

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_CPU_H_
