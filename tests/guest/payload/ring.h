// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_RING_H_
#define TESTS_GUEST_PAYLOAD_RING_H_

// A split virtqueue, the driver's side.  Chains are laid out once: what is
// published is the number of a chain's first descriptor.
// Source: VIRTIO 1.3, "Split Virtqueues".

#include "tests/guest/payload/room.h"

namespace vhost::payload {

struct Descriptor {
  static constexpr u16 kNext = 1;
  static constexpr u16 kWrite = 2;

  u64 address;
  u32 size;
  u16 flags;
  u16 next;
};
static_assert(sizeof(Descriptor) == 16);

class Ring {
 public:
  struct Used {
    u32 id;
    u32 size;
  };

  // Memory for `size` descriptors, a power of two.
  void allocate_for(u16 size) {
    size_ = size;
    constexpr u64 kPage = 4096;
    descriptors_ = allocate_array<Descriptor>(size, kPage);
    available_ = allocate_array<u16>(size + 3u, kPage);
    used_ = allocate_array<u16>(size * 4u + 3u, kPage);
  }
  // As new; descriptors stay.
  void reset(bool event_index) {
    event_index_ = event_index;
    pushed_ = kicked_ = popped_ = 0;
    for (u32 i = 0; i < size_ + 3u; ++i) available_[i] = 0;
    for (u32 i = 0; i < size_ * 4u + 3u; ++i) used_[i] = 0;
    armed_ = true;
    disarm();
  }

  u16 size() const { return size_; }
  Descriptor& descriptor(u32 index) { return descriptors_[index]; }
  u64 descriptors() const { return reinterpret_cast<u64>(descriptors_); }
  u64 available() const { return reinterpret_cast<u64>(available_); }
  u64 used() const { return reinterpret_cast<u64>(used_); }

  // Chains that the device has.
  u16 in_flight() const { return static_cast<u16>(pushed_ - popped_); }

  void push(u16 head) {
    available_[2 + pushed_ % size_] = head;
    ++pushed_;
    __atomic_store_n(&available_[1], pushed_, __ATOMIC_RELEASE);
  }
  // Whether the device wants to be told of what was pushed since it was asked
  // last.
  bool wants_kick() {
    fence();
    const u16 old = kicked_;
    kicked_ = pushed_;
    if (old == pushed_) return false;
    if (!event_index_) return (used_word(0) & kNoNotify) == 0;
    const u16 event = used_word(2 + 4 * size_);
    return static_cast<u16>(pushed_ - event - 1) <
           static_cast<u16>(pushed_ - old);
  }

  bool has_used() const { return used_word(1) != popped_; }
  // The next one; fails where the device lies about how many there are.
  Used pop() {
    const u16 waiting = static_cast<u16>(used_word(1) - popped_);
    if (waiting > in_flight()) {
      fail("a used index moved further than there are requests:", waiting);
    }
    const u32 at = 2 + 4 * (popped_ % size_);
    const Used used{used_word(at) | u32{used_word(at + 1)} << 16,
                    used_word(at + 2) | u32{used_word(at + 3)} << 16};
    ++popped_;
    return used;
  }

  // Asks for an interrupt at the next used chain.  has_used() afterwards:
  // there may be none for that.
  void arm() {
    armed_ = true;
    if (event_index_) set_event(popped_);
    __atomic_store_n(&available_[0], u16{0}, __ATOMIC_RELEASE);
    fence();
  }
  // Asks for none.  Writes only what has to be written: the device may be
  // looking at that line all the time, and who polls is here all the time.
  void disarm() {
    if (armed_) {
      __atomic_store_n(&available_[0], kNoInterrupt, __ATOMIC_RELEASE);
    }
    // With event indices it is one that is behind, until they come round.
    constexpr u16 kFar = 0x4000;
    if (event_index_ && (armed_ || static_cast<u16>(popped_ - event_) > kFar)) {
      set_event(static_cast<u16>(popped_ - 1));
    }
    armed_ = false;
  }

 private:
  static constexpr u16 kNoInterrupt = 1;
  static constexpr u16 kNoNotify = 1;

  void set_event(u16 event) {
    event_ = event;
    available_[2 + size_] = event;
  }
  u16 used_word(u32 index) const {
    return __atomic_load_n(&used_[index], __ATOMIC_ACQUIRE);
  }

  u16 size_ = 0;
  u16 pushed_ = 0;
  u16 kicked_ = 0;  // What was pushed when wants_kick() was asked.
  u16 popped_ = 0;
  bool event_index_ = false;
  bool armed_ = false;
  u16 event_ = 0;  // With event indices, where an interrupt is asked for.
  Descriptor* descriptors_ = nullptr;
  u16* available_ = nullptr;
  u16* used_ = nullptr;
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_RING_H_
