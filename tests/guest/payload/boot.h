// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_BOOT_H_
#define TESTS_GUEST_PAYLOAD_BOOT_H_

// How minivm hands a vCPU to the payload.  Freestanding: no library.
//
// 64-bit mode, CPL 3, IOPL 3, interrupts off, everything below 8 GiB mapped at
// its own address and accessible, nothing set up at the 8259.
// RDI: which vCPU this is, from 0.  RSI: how many there are.  RDX: the address
// of the flattened device tree.
//
// The interrupt table at kIdtGpa is zero; the payload fills it, with gates of
// kGateSelector (CPL 0, where each vCPU has a stack of 4 KiB).  Only what must
// be there runs at CPL 0: some hypervisors interpret it.
// `hlt` at CPL 3 is a general protection fault, which is how the payload gets
// to wait.

namespace vhost::payload {

inline constexpr unsigned long long kIdtGpa = 0x3000;  // 256 gates of 16 bytes.
inline constexpr unsigned short kGateSelector = 0x08;

// A byte written here says that Mailbox::state changed.
inline constexpr unsigned short kDoorbellPort = 0xf2;
// A byte written here at CPL 0 says that the vCPU met an exception it has no
// answer to.  On top of the stack are its vector, error code (0 if it has
// none), RIP, CS, RFLAGS, RSP and SS, 8 bytes each.  The vCPU does not go on.
inline constexpr unsigned short kFaultPort = 0xf4;

inline constexpr unsigned kMaxCpus = 8;

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_BOOT_H_
