// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_NIC_H_
#define TESTS_GUEST_PAYLOAD_NIC_H_

// A network device, one pair of queues.  It sends numbered frames and judges
// those of its peer that arrive: whatever is between them may drop frames, but
// not damage, double or reorder any.

#include "tests/guest/payload/device.h"

namespace vhost::payload {

class Nic {
 public:
  // Number `number`; frames come from number `peer`, which may be itself.
  void set_up(const TreeDevice& found, u32 number, u32 peer);
  // Resets it and starts it anew.
  void restart();

  Device& device() { return *device_; }

  // Whether there is something to reap.
  bool has_used() const { return receive_.has_used() || transmit_.has_used(); }
  // Interrupts for that, and none.  Those of frames that were sent too: nobody
  // else would wake a vCPU that waits for them.
  void arm() {
    receive_.arm();
    transmit_.arm();
  }
  void disarm() {
    receive_.disarm();
    transmit_.disarm();
  }

  u64 sent() const { return sent_; }
  u64 last_received() const { return last_received_; }

  // Takes what arrived.  How many frames.
  u32 reap();
  // Takes back what was sent.  How many frames.
  u32 reap_sent();
  // Sends what there is room for.  `heard` is the number of the last frame of
  // this one that arrived at its peer.
  void send(u64 heard);
  // Nothing moves any more: what did not arrive was dropped.
  void give_up_on_missing() { forgiven_ = sent_; }

 private:
  static constexpr u32 kBuffers = 64;
  static constexpr u32 kBuffer = 2048;
  static constexpr u32 kHeader = 12;

  struct Frame;

  void start();
  void post(u32 buffer);
  void judge(const unsigned char* bytes, u32 size);
  u8* buffer(u8* of, u32 index) const { return of + index * kBuffer; }

  Device* device_ = nullptr;
  u32 number_ = 0;
  u32 peer_ = 0;
  Ring receive_;
  Ring transmit_;
  u8* received_ = nullptr;
  u8* frames_ = nullptr;
  u32 buffers_ = 0;  // As many as both rings have descriptors.
  bool busy_[kBuffers] = {};
  Random random_;
  u64 sent_ = 0;
  u64 forgiven_ = 0;  // Up to this one nobody waits for frames.
  u64 heard_ = 0;
  u64 heard_at_ = 0;
  u64 last_received_ = 0;
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_NIC_H_
