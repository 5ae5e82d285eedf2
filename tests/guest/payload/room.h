// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_ROOM_H_
#define TESTS_GUEST_PAYLOAD_ROOM_H_

// What all parts of the payload have in common: its mailbox, its memory, how it
// gives up.

#include "tests/guest/payload/cpu.h"

namespace vhost::payload {

extern Mailbox* mailbox;

// The first thing that goes wrong is what minivm is told; no vCPU goes on.
// `number` follows the words if it is there.
[[noreturn]] void fail(const char* what);
[[noreturn]] void fail(const char* what, u64 number);

// Tells minivm that the state is another one, once.
void tell_state(State from, State to);

// `count` zeroed objects, aligned for DMA if `align` says so.  Not enough
// memory: fails.  While one vCPU runs.
void* allocate(u64 bytes, u64 align);
template <typename T>
T* allocate_array(u64 count, u64 align = alignof(T)) {
  return static_cast<T*>(allocate(count * sizeof(T), align));
}

// A line on the serial port.
void print(const char* text);

// A pseudo-random sequence (splitmix64).
class Random {
 public:
  void seed(u64 seed) { state_ = seed; }
  u64 next() {
    u64 value = state_ += 0x9e3779b97f4a7c15;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
  }
  // Below `bound`, which is not 0.
  u64 below(u64 bound) { return next() % bound; }

 private:
  u64 state_ = 0;
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_ROOM_H_
