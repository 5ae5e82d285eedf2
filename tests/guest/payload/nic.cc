// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/payload/nic.h"

#include "tests/guest/payload/place.h"
#include "tools/vhostctl/pattern_block.h"

namespace vhost::payload {
namespace {

constexpr u32 kReceive = 0;
constexpr u32 kTransmit = 1;
constexpr u16 kEtherType = 0xb588;  // 0x88b5, for experiments; big-endian.
constexpr u32 kMagic = 0x6d617266;  // "fram"

}  // namespace

struct __attribute__((packed)) Nic::Frame {
  u8 to[6];
  u8 from[6];
  u16 type;
  u16 size;  // Of all of it.
  u32 magic;
  u32 sender;
  u64 number;
  u64 checksum;  // Of what follows, mixed with the number and the sender.
  u8 filler[1];

  u64 sum() const {
    return XXH3_64bits(filler, size - offsetof(Frame, filler)) ^
           ctl::mix(number * 2 + sender);
  }
};

void Nic::set_up(const TreeDevice& found, u32 number, u32 peer) {
  device_ = new (allocate(sizeof(Device), alignof(Device))) Device(found);
  number_ = number;
  peer_ = peer;
  random_.seed(mailbox->seed + number);
  device_->negotiate(0);
  buffers_ = kBuffers;
  Ring* const rings[] = {&receive_, &transmit_};
  for (u32 i = 0; i < 2; ++i) {
    const u32 limit = device_->queue_limit(i);
    if (limit == 0) fail("a network device lacks its queue", i);
    const u32 size = limit < kBuffers ? limit : kBuffers;
    rings[i]->allocate_for(static_cast<u16>(size));
    if (size < buffers_) buffers_ = size;
  }
  received_ = static_cast<u8*>(allocate(u64{buffers_} * kBuffer, kBuffer));
  frames_ = static_cast<u8*>(allocate(u64{buffers_} * kBuffer, kBuffer));
  for (u32 i = 0; i < buffers_; ++i) {
    receive_.descriptor(i) = {reinterpret_cast<u64>(buffer(received_, i)),
                              kBuffer, Descriptor::kWrite, 0};
  }
  start();
}

void Nic::restart() {
  device_->negotiate(0);
  u64 dropped = 0;
  for (bool& busy : busy_) {
    dropped += busy ? 1 : 0;
    busy = false;
  }
  add<u64>(mailbox->in_flight, u64{0} - dropped);
  give_up_on_missing();
  start();
}

void Nic::start() {
  receive_.reset(/*event_index=*/false);
  transmit_.reset(/*event_index=*/false);
  device_->set_queue(kReceive, receive_);
  device_->set_queue(kTransmit, transmit_);
  device_->go();
  for (u32 i = 0; i < buffers_; ++i) post(i);
  if (receive_.wants_kick()) device_->kick(kReceive);
}

void Nic::post(u32 index) { receive_.push(static_cast<u16>(index)); }

u32 Nic::reap() {
  u32 done = 0;
  while (receive_.has_used()) {
    const Ring::Used used = receive_.pop();
    if (used.id >= buffers_ || used.size > kBuffer) {
      fail("a network device hands back a buffer that is none:", used.id);
    }
    if (used.size > kHeader) {
      judge(buffer(received_, used.id) + kHeader, used.size - kHeader);
    }
    post(used.id);
    ++done;
  }
  if (receive_.wants_kick()) device_->kick(kReceive);
  return done;
}

u32 Nic::reap_sent() {
  u32 sent = 0;
  while (transmit_.has_used()) {
    const Ring::Used used = transmit_.pop();
    if (used.id >= buffers_ || !busy_[used.id]) {
      fail("a network device hands back what it does not have:", used.id);
    }
    busy_[used.id] = false;
    ++sent;
  }
  if (sent != 0) add<u64>(mailbox->in_flight, u64{0} - sent);
  return sent;
}

void Nic::judge(const unsigned char* bytes, u32 size) {
  Frame frame;
  if (size < sizeof(Frame)) return;  // Of somebody else.
  __builtin_memcpy(&frame, bytes, sizeof(frame));
  if (frame.type != kEtherType || frame.magic != kMagic) return;
  // In its place: sum() reads what is behind it.
  const auto& whole = *reinterpret_cast<const Frame*>(bytes);
  const bool good = frame.size >= sizeof(Frame) && frame.size <= size &&
                    frame.sender == peer_ && whole.sum() == frame.checksum &&
                    frame.number > last_received_;
  add<u64>(good ? mailbox->frames_received : mailbox->frame_faults, 1);
  if (!good) return;
  add<u64>(mailbox->received_by[number_], 1);
  last_received_ = frame.number;
}

void Nic::send(u64 heard) {
  // More than this in between, and whoever is there would drop frames.
  constexpr u64 kWindow = 32;
  // About a second of nothing: what is between dropped them.
  constexpr u64 kPatience = u64{1} << 31;
  if (heard != heard_) {
    heard_ = heard;
    heard_at_ = clock();
  } else if (clock() - heard_at_ > kPatience) {
    heard_at_ = clock();
    give_up_on_missing();
  }
  if (heard < forgiven_) heard = forgiven_;
  u64 pushed = 0;
  for (u32 i = 0; i < buffers_ && sent_ - heard < kWindow; ++i) {
    if (busy_[i]) continue;
    u8* const bytes = buffer(frames_, i);
    __builtin_memset(bytes, 0, kHeader);
    auto& frame = *reinterpret_cast<Frame*>(bytes + kHeader);
    constexpr u32 kLargest = 1514;
    constexpr u32 kSmallest = 64;
    const u64 size = kSmallest + random_.below(kLargest - kSmallest + 1);
    __builtin_memset(frame.to, 0xff, sizeof(frame.to));
    __builtin_memset(frame.from, static_cast<int>(2 + 4 * number_),
                     sizeof(frame.from));
    frame.type = kEtherType;
    frame.size = static_cast<u16>(size);
    frame.magic = kMagic;
    frame.sender = number_;
    frame.number = ++sent_;
    const u64 filler = size - offsetof(Frame, filler);
    for (u64 at = 0; at < filler; ++at) {
      frame.filler[at] = static_cast<u8>(frame.number + at);
    }
    frame.checksum = frame.sum();
    transmit_.descriptor(i) = {reinterpret_cast<u64>(bytes),
                               static_cast<u32>(kHeader + size), 0, 0};
    busy_[i] = true;
    ++pushed;
    transmit_.push(static_cast<u16>(i));
  }
  if (pushed == 0) return;
  add<u64>(mailbox->in_flight, pushed);
  add<u64>(mailbox->frames_sent, pushed);
  if (transmit_.wants_kick()) device_->kick(kTransmit);
}

}  // namespace vhost::payload
