// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_MAILBOX_H_
#define TESTS_GUEST_PAYLOAD_MAILBOX_H_

// A page that the payload and minivm share, so that either can tell the other
// something without an exit.  Freestanding: no library.  The payload finds it
// in the device tree: node "mailbox" under /, compatible "vhostdev,mailbox",
// with its reg.
//
// Every field has one writer.  Numbers only grow, but for `command`, `state`
// and `in_flight`.

namespace vhost::payload {

using u32 = unsigned int;
using u64 = unsigned long long;

inline constexpr u32 kMailboxMagic = 0x786f626d;  // "mbox"
inline constexpr u32 kMailboxVersion = 1;

// What minivm wants.
enum Command : u32 {
  kRun = 0,     // Submit.
  kHold = 1,    // Submit nothing more; `state` says when nothing is in flight.
  kFinish = 2,  // As kHold, then read everything back, and end.
};

// Where the payload is.
enum State : u32 {
  kStarting = 0,  // Finds its devices.
  kRunning = 1,
  kHeld = 2,      // Nothing is in flight and nothing will be.
  kChecking = 3,  // kFinish: reads everything back.
  kEnded = 4,     // All is in this page.
  kFailed = 5,    // `failure` says why; nothing more comes.
};

struct Mailbox {
  // minivm writes these.
  u32 magic;
  u32 version;
  u32 command;
  u32 ticks;  // Counts up with every wake-up that the watchdog sends.
  u64 size;   // Workload: bytes of each disk; 0: all of it.
  u64 seed;
  u32 depth;   // Requests in flight per queue.
  u32 polled;  // 1: no interrupts, the used rings are polled.
  // 1: disks are only read, and what they hold is not looked at.
  u32 read_only;
  u32 reserved0[19];

  // The payload writes these.
  u32 state;
  u32 disks;  // Found and driven.
  u32 nets;
  u32 queues;  // Of all disks.
  u64 reads;   // Completed requests.
  u64 writes;  // Acknowledged.
  u64 in_flight;
  u64 interrupts;        // Device interrupts taken by the handler.
  u64 lost_interrupts;   // Completions that only a tick of the watchdog found.
  u64 empty_interrupts;  // After which no used ring had anything.
  u64 frames_sent;
  u64 frames_received;
  u64 frame_faults;     // Damaged, doubled, or out of place.
  u64 failed_requests;  // The device answered an error.
  // By kind: lost, stale, torn, misplaced, doubled (tools/vhostctl/journal.h).
  u64 faults[5];
  u64 resets;             // The device asked for one (NEEDS_RESET) and got it.
  u64 in_doubt;           // Writes whose outcome a reset left unknown.
  u64 verified;           // Bytes that were read back and compared.
  u64 received_by[16];    // Of frames_received.
  char first_fault[256];  // What is wrong with the first one; a C string.
  char failure[256];      // Why kFailed; a C string.
};
static_assert(sizeof(Mailbox) <= 4096);

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_MAILBOX_H_
