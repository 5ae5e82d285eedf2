// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/vsock_scenario.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "hw/driver/vsock_streams.h"

namespace vhost {
namespace {

constexpr uint64_t kGuest = 3;
constexpr uint32_t kBuffer = 1000;  // Bytes.
constexpr uint32_t kMostStreams = 6;
constexpr uint32_t kMostPayload = 2000;
constexpr int kMostRecords = 256;

void check(bool condition) {
  if (!condition) std::abort();
}

struct Record {
  uint8_t what;
  uint8_t which;
  uint16_t size;
  uint32_t number;
};
static_assert(sizeof(Record) == 8);

VsockClient::Options options() {
  VsockClient::Options out;
  out.guest_cid = kGuest;
  out.stream_buffer = kBuffer;
  out.max_streams = kMostStreams;
  out.backlog = 2;
  return out;
}

class Runner {
 public:
  void run(const Record& record) {
    if ((record.what & 0x80) != 0) {
      host(record);
    } else {
      guest(record);
    }
    look();
  }
  void finish() {
    seen.stray = static_cast<uint32_t>(streams_.stray());
    for (const VsockStream id : std::set<VsockStream>(mine_))
      streams_.close(id);
    drain();
    check(!streams_.has_answers());
  }

  VsockScenario seen;

 private:
  void host(const Record& record) {
    VsockHeader header = {
        .source = {kVsockHostCid, 1 + (record.which >> 2 & 3u)},
        .destination = {kGuest, 1 + (record.which & 3u)},
        .length = std::min<uint32_t>(record.size, kMostPayload),
        .op = static_cast<VsockOp>(record.what & 15),
        .buffer_size = record.number};
    if ((record.what & 0x40) != 0) {
      header.forwarded = record.number;
      header.buffer_size = kBuffer;
    }
    if ((record.what & 0x20) != 0) header.type = kVsockTypeSeqpacket;
    if ((record.what & 0x10) != 0) header.destination.cid = kGuest + 1;
    if (header.op == VsockOp::kShutdown) header.flags = record.number;
    // Through the bytes, as it comes off a queue.
    std::vector<std::byte> packet(kVsockHeaderSize + header.length);
    encode_vsock_header(header, std::span(packet).first<kVsockHeaderSize>());
    if ((record.which & 0x80) != 0) packet.resize(record.number % 80);
    const auto decoded = decode_vsock_header(packet);
    if (!decoded.ok()) {
      ++seen.torn;
      return;
    }
    if (!streams_.may_take()) drain();
    streams_.take(*decoded,
                  std::span(packet).subspan(kVsockHeaderSize, decoded->length));
  }

  void guest(const Record& record) {
    const VsockStream id = pick(record.which);
    switch (record.what % 9) {
      case 0:
        return connect(record);
      case 1:
        return streams_.listen(1 + (record.which & 3u)).IgnoreError();
      case 2:
        if (const auto accepted = streams_.accept(1 + (record.which & 3u))) {
          ++seen.accepted;
          own(*accepted);
        }
        return;
      case 3:
        return send(id, record.size);
      case 4: {
        std::array<std::byte, 512> out;
        const auto got = streams_.receive(
            id, std::span(out).first(record.size % (out.size() + 1)));
        seen.received += static_cast<uint32_t>(got.value_or(0));
        return;
      }
      case 5:
        return streams_.shutdown(id, 1 + record.size % 3).IgnoreError();
      case 6:
        streams_.close(id);
        mine_.erase(id);
        return;
      case 7:
        return drain();
      default:
        if (record.size == 0) return streams_.transport_reset(kGuest);
        return streams_.stop_listening(1 + (record.which & 3u));
    }
  }

  void connect(const Record& record) {
    const auto made = streams_.connect(
        {kVsockHostCid, 1 + (record.which >> 2 & 3u)}, 1 + (record.which & 3u));
    if (made.ok()) own(*made);
  }

  void send(VsockStream id, uint32_t wanted) {
    const auto before = streams_.info(id);
    auto size = streams_.begin_data(id, wanted);
    if (size.ok() && *size == 0) {
      drain();
      size = streams_.begin_data(id, wanted);
    }
    if (!size.ok() || *size == 0) return;
    check(*size <= wanted && *size <= before->credit);
    const VsockHeader header = streams_.data(id, *size);
    check(header.length == *size && header.op == VsockOp::kData);
    check(streams_.info(id)->credit == before->credit - *size);
    seen.sent += *size;
  }

  void own(VsockStream id) {
    check(mine_.insert(id).second);
    check(ever_.insert(id).second);
  }
  VsockStream pick(uint8_t which) const {
    if (mine_.empty()) return VsockStream{0};
    auto at = mine_.begin();
    std::advance(at, which % mine_.size());
    return *at;
  }

  void drain() {
    while (const auto next = streams_.next_answer()) {
      check(next->length == 0 && next->op != VsockOp::kInvalid &&
            next->op != VsockOp::kData);
      std::array<std::byte, kVsockHeaderSize> bytes;
      encode_vsock_header(*next, bytes);
      check(*decode_vsock_header(bytes) == *next);
    }
  }

  // What must hold whatever happens.
  void look() {
    check(mine_.size() <= kMostStreams);
    for (const VsockStream id : mine_) {
      const auto info = streams_.info(id);
      check(info.has_value() && info->readable <= kBuffer);
      VsockState& state = states_[id];
      // A closed stream stays so, an open one never connects again.
      check(state <= info->state);
      if (state == info->state) continue;
      if (info->state == VsockState::kOpen) ++seen.connected;
      if (info->state == VsockState::kClosed) note_end(*info);
      state = info->state;
    }
  }
  void note_end(const VsockStreamInfo& info) {
    check(info.credit == 0 && !info.peer_sends && !info.peer_receives);
    if (info.status.ok()) {
      ++seen.agreed;
    } else if (absl::IsAborted(info.status)) {
      ++seen.refused;
    } else {
      check(absl::IsDataLoss(info.status));
    }
    seen.broken.emplace_back(info.status.message());
  }

  VsockStreams streams_{options()};
  std::set<VsockStream> mine_;
  std::set<VsockStream> ever_;
  std::map<VsockStream, VsockState> states_;
};

}  // namespace

VsockScenario run_vsock_scenario(const uint8_t* data, size_t size) {
  Runner runner;
  std::span<const uint8_t> left(data, size);
  for (int i = 0; i < kMostRecords && left.size() >= sizeof(Record); ++i) {
    Record record;
    std::memcpy(&record, left.data(), sizeof(record));
    left = left.subspan(sizeof(record));
    runner.run(record);
  }
  runner.finish();
  return runner.seen;
}

}  // namespace vhost
