// SPDX-License-Identifier: Apache-2.0
//
//   driver     := version u32, features u64 u64, fixed u32, depth u32,
//                 indirect_entries u32, count u32, queue*
//   queue      := position u32, ring_gpa u64, tables_gpa u64, ring
//   ring       := submitted u16, published u16, taken u16, interrupts u8,
//                 count u32, request*, descriptor u16*
//   request    := cookie u64, writable u32, descriptors u16
//   blk client := version u32, config, depth u32, id_gpa u64, count u32,
//                 (wires_gpa u64, count u32,
//                  (slot u32, cookie u64, op u8, offset u64)*)*
//   config     := capacity u64, size_max u32, seg_max u32, blk_size u32,
//                 num_queues u16, flags u8, max_discard_sectors u32,
//                 discard_alignment u32, max_write_zeroes_sectors u32
//   net client := version u32, send_depth u32, max_frame u32, buffers u32,
//                 buffer_size u32, count u32, pair*
//   pair       := send_gpa u64, count u32, (slot u32, cookie u64)*,
//                 taken, receive_gpa u64, taken
//   taken      := count u32, (slot u32, written u32)*
//
// There are as many descriptors as the requests of a ring have together.
#include "vhostdev/driver_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/split_virtqueue.h"
#include "vhostdev/state_bytes.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr uint32_t kVersion = 1;  // Of each of the three.
constexpr uint32_t kMostQueues = 1024;

// Bytes of the shortest of each.
constexpr size_t kQueueSize = 31;
constexpr size_t kRequestSize = 14;
constexpr size_t kBlkQueueSize = 12;
constexpr size_t kBlkRequestSize = 21;
constexpr size_t kPairSize = 28;
constexpr size_t kSentSize = 12;
constexpr size_t kTakenSize = 8;

void check_version(StateReader& in) {
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, ", not ", kVersion));
  }
}

// What was read, if all of it was right.
template <typename State>
absl::StatusOr<State> finish(StateReader& in, State state,
                             absl::string_view what) {
  VHOST_RETURN_IF_ERROR(annotate(in.finish(), what));
  return state;
}

void write(StateWriter& out, const SplitRingState& ring) {
  out.u16(ring.submitted);
  out.u16(ring.published);
  out.u16(ring.taken);
  out.boolean(ring.interrupts);
  out.u32(static_cast<uint32_t>(ring.in_flight.size()));
  for (const SplitRingState::Request& request : ring.in_flight) {
    out.u64(request.cookie);
    out.u32(request.writable);
    out.u16(request.descriptors);
  }
  for (const uint16_t index : ring.chains) out.u16(index);
}

SplitRingState read_ring(StateReader& in) {
  SplitRingState ring;
  ring.submitted = in.u16();
  ring.published = in.u16();
  ring.taken = in.u16();
  ring.interrupts = in.boolean();
  const uint32_t count = in.count(kMaxSplitRingSize, kRequestSize);
  size_t descriptors = 0;
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    SplitRingState::Request request;
    request.cookie = in.u64();
    request.writable = in.u32();
    request.descriptors = in.u16();
    descriptors += request.descriptors;
    ring.in_flight.push_back(request);
  }
  if (descriptors > kMaxSplitRingSize) {
    in.refuse(absl::StrCat(descriptors, " descriptors in flight"));
  }
  for (size_t i = 0; i < descriptors && in.ok(); ++i) {
    ring.chains.push_back(in.u16());
  }
  return ring;
}

void write(StateWriter& out, const BlkConfig& config) {
  out.u64(config.capacity);
  out.u32(config.size_max);
  out.u32(config.seg_max);
  out.u32(config.blk_size);
  out.u16(config.num_queues);
  const bool flags[] = {config.read_only,    config.flush,
                        config.writeback,    config.discard,
                        config.write_zeroes, config.write_zeroes_may_unmap};
  unsigned bits = 0;
  for (unsigned i = 0; i < std::size(flags); ++i) {
    if (flags[i]) bits |= 1u << i;
  }
  out.u8(static_cast<uint8_t>(bits));
  out.u32(config.max_discard_sectors);
  out.u32(config.discard_alignment);
  out.u32(config.max_write_zeroes_sectors);
}

BlkConfig read_config(StateReader& in) {
  BlkConfig config;
  config.capacity = in.u64();
  config.size_max = in.u32();
  config.seg_max = in.u32();
  config.blk_size = in.u32();
  config.num_queues = in.u16();
  bool* const flags[] = {&config.read_only,    &config.flush,
                         &config.writeback,    &config.discard,
                         &config.write_zeroes, &config.write_zeroes_may_unmap};
  const unsigned bits = in.u8();
  for (unsigned i = 0; i < std::size(flags); ++i) {
    *flags[i] = (bits >> i & 1) != 0;
  }
  if (bits >> std::size(flags) != 0) {
    in.refuse(absl::StrCat("unknown flags ", absl::Hex(bits)));
  }
  config.max_discard_sectors = in.u32();
  config.discard_alignment = in.u32();
  config.max_write_zeroes_sectors = in.u32();
  return config;
}

BlkOp read_op(StateReader& in) {
  const uint8_t op = in.u8();
  if (op > static_cast<uint8_t>(BlkOp::kWriteZeroes)) {
    in.refuse(absl::StrCat("unknown operation ", op));
    return BlkOp::kRead;
  }
  return static_cast<BlkOp>(op);
}

void write(StateWriter& out, const std::vector<NetClientState::Taken>& all) {
  out.u32(static_cast<uint32_t>(all.size()));
  for (const NetClientState::Taken& taken : all) {
    out.u32(taken.slot);
    out.u32(taken.written);
  }
}

std::vector<NetClientState::Taken> read_taken(StateReader& in) {
  std::vector<NetClientState::Taken> all;
  const uint32_t count = in.count(kMaxSplitRingSize, kTakenSize);
  for (uint32_t i = 0; i < count; ++i) {
    NetClientState::Taken taken;
    taken.slot = in.u32();
    taken.written = in.u32();
    all.push_back(taken);
  }
  return all;
}

NetClientState::Pair read_pair(StateReader& in) {
  NetClientState::Pair pair;
  pair.send_gpa = in.u64();
  const uint32_t count = in.count(kMaxSplitRingSize, kSentSize);
  for (uint32_t i = 0; i < count; ++i) {
    NetClientState::Sent sent;
    sent.slot = in.u32();
    sent.cookie = in.u64();
    pair.in_flight.push_back(sent);
  }
  pair.sent = read_taken(in);
  pair.receive_gpa = in.u64();
  pair.received = read_taken(in);
  return pair;
}

}  // namespace

std::string encode(const DriverState& state) {
  StateWriter out;
  out.u32(kVersion);
  out.u64(state.features.low());
  out.u64(state.features.high());
  out.u32(state.fixed);
  out.u32(state.depth);
  out.u32(state.indirect_entries);
  out.u32(static_cast<uint32_t>(state.queues.size()));
  for (const DriverState::Queue& queue : state.queues) {
    out.u32(to_int(queue.position));
    out.u64(queue.ring_gpa);
    out.u64(queue.tables_gpa);
    write(out, queue.ring);
  }
  return out.take();
}

absl::StatusOr<DriverState> decode_driver_state(absl::string_view bytes) {
  StateReader in(bytes);
  DriverState state;
  check_version(in);
  const uint64_t low = in.u64();
  state.features = FeatureSet::from_words(low, in.u64());
  state.fixed = in.u32();
  state.depth = in.u32();
  state.indirect_entries = in.u32();
  const uint32_t count = in.count(kMostQueues, kQueueSize);
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    DriverState::Queue queue;
    queue.position = VringBase{in.u32()};
    queue.ring_gpa = in.u64();
    queue.tables_gpa = in.u64();
    queue.ring = read_ring(in);
    state.queues.push_back(std::move(queue));
  }
  return finish(in, std::move(state), "state of a driver");
}

std::string encode(const BlkClientState& state) {
  StateWriter out;
  out.u32(kVersion);
  write(out, state.config);
  out.u32(state.depth);
  out.u64(state.id_gpa);
  out.u32(static_cast<uint32_t>(state.queues.size()));
  for (const BlkClientState::Queue& queue : state.queues) {
    out.u64(queue.wires_gpa);
    out.u32(static_cast<uint32_t>(queue.in_flight.size()));
    for (const BlkClientState::Request& request : queue.in_flight) {
      out.u32(request.slot);
      out.u64(request.cookie);
      out.u8(static_cast<uint8_t>(request.op));
      out.u64(request.offset);
    }
  }
  return out.take();
}

absl::StatusOr<BlkClientState> decode_blk_client_state(
    absl::string_view bytes) {
  StateReader in(bytes);
  BlkClientState state;
  check_version(in);
  state.config = read_config(in);
  state.depth = in.u32();
  state.id_gpa = in.u64();
  const uint32_t count = in.count(kMostQueues, kBlkQueueSize);
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    BlkClientState::Queue queue;
    queue.wires_gpa = in.u64();
    const uint32_t requests = in.count(kMaxSplitRingSize, kBlkRequestSize);
    for (uint32_t j = 0; j < requests && in.ok(); ++j) {
      BlkClientState::Request request;
      request.slot = in.u32();
      request.cookie = in.u64();
      request.op = read_op(in);
      request.offset = in.u64();
      queue.in_flight.push_back(request);
    }
    state.queues.push_back(std::move(queue));
  }
  return finish(in, std::move(state), "state of a block client");
}

std::string encode(const NetClientState& state) {
  StateWriter out;
  out.u32(kVersion);
  out.u32(state.send_depth);
  out.u32(state.max_frame);
  out.u32(state.buffers);
  out.u32(state.buffer_size);
  out.u32(static_cast<uint32_t>(state.pairs.size()));
  for (const NetClientState::Pair& pair : state.pairs) {
    out.u64(pair.send_gpa);
    out.u32(static_cast<uint32_t>(pair.in_flight.size()));
    for (const NetClientState::Sent& sent : pair.in_flight) {
      out.u32(sent.slot);
      out.u64(sent.cookie);
    }
    write(out, pair.sent);
    out.u64(pair.receive_gpa);
    write(out, pair.received);
  }
  return out.take();
}

absl::StatusOr<NetClientState> decode_net_client_state(
    absl::string_view bytes) {
  StateReader in(bytes);
  NetClientState state;
  check_version(in);
  state.send_depth = in.u32();
  state.max_frame = in.u32();
  state.buffers = in.u32();
  state.buffer_size = in.u32();
  const uint32_t count = in.count(kMostQueues, kPairSize);
  for (uint32_t i = 0; i < count && in.ok(); ++i) {
    state.pairs.push_back(read_pair(in));
  }
  return finish(in, std::move(state), "state of a network client");
}

}  // namespace vhost
