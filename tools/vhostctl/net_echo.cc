// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/net_echo.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr size_t kSmallestFrame = 60;
constexpr size_t kLargestFrame = 1514;
constexpr size_t kFramesAtOnce = 32;

struct EchoHead {
  std::array<uint8_t, 6> destination;
  std::array<uint8_t, 6> source;
  std::array<uint8_t, 2> type;
  uint8_t way;
  uint8_t zero;
  uint64_t seed;
  uint64_t number;
};
static_assert(sizeof(EchoHead) == 32);
constexpr std::array<uint8_t, 2> kType = {kEchoEtherType >> 8,
                                          kEchoEtherType & 0xff};
// Locally administered.
constexpr std::array<uint8_t, 6> kMacA = {0x02, 0, 0, 0, 0, 0xa};
constexpr std::array<uint8_t, 6> kMacB = {0x02, 0, 0, 0, 0, 0xb};

// Neighbouring inputs give unrelated outputs.
uint64_t mix(uint64_t value) {
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

}  // namespace

void fill_echo_frame(uint64_t seed, EchoWay way, uint64_t number,
                     std::vector<std::byte>& out) {
  const bool there = way == EchoWay::kThere;
  const EchoHead head = {.destination = there ? kMacB : kMacA,
                         .source = there ? kMacA : kMacB,
                         .type = kType,
                         .way = static_cast<uint8_t>(way),
                         .zero = 0,
                         .seed = seed,
                         .number = number};
  uint64_t word = mix(seed + mix(2 * number + head.way));
  out.resize(kSmallestFrame + word % (kLargestFrame - kSmallestFrame + 1));
  std::memcpy(out.data(), &head, sizeof(head));
  for (size_t at = sizeof(head); at < out.size(); at += sizeof(word)) {
    word += 0x9e3779b97f4a7c15;
    const uint64_t filler = mix(word);
    std::memcpy(out.data() + at, &filler,
                std::min(sizeof(filler), out.size() - at));
  }
}

NetEcho::NetEcho(std::unique_ptr<EchoPort> a, std::unique_ptr<EchoPort> b,
                 Wait wait, const Options& options)
    : options_(options),
      wait_(std::move(wait)),
      a_{std::move(a), EchoWay::kBack, std::vector<bool>(options.frames), {}},
      b_{std::move(b), EchoWay::kThere, std::vector<bool>(options.frames), {}},
      frames_(kFramesAtOnce) {}

NetEcho::NetEcho(NetClient& a, NetClient& b, const Options& options)
    : NetEcho(
          std::make_unique<ClientPort>(a), std::make_unique<ClientPort>(b),
          [both = std::array<NetClient*, 2>{&a, &b}](Duration timeout) {
            return NetClient::wait_any(both, timeout);
          },
          options) {}

absl::Status NetEcho::run_to(uint64_t returned) {
  returned = std::min(returned, options_.frames);
  MonotonicTime last = std::chrono::steady_clock::now();
  while (counts_.returned < returned) {
    while (counts_.sent < options_.frames &&
           counts_.sent - counts_.returned < options_.window) {
      a_.to_send.push_back(counts_.sent++);
    }
    VHOST_RETURN_IF_ERROR(annotate(send_queued(a_, EchoWay::kThere), "port a"));
    VHOST_RETURN_IF_ERROR(annotate(send_queued(b_, EchoWay::kBack), "port b"));
    a_.end->flush();
    b_.end->flush();
    const uint64_t before = counts_.arrived + counts_.returned;
    if (!wait_(options_.timeout)) return missing();
    VHOST_RETURN_IF_ERROR(annotate(a_.end->take_sent(), "port a"));
    VHOST_RETURN_IF_ERROR(annotate(b_.end->take_sent(), "port b"));
    receive(b_, counts_.arrived);
    receive(a_, counts_.returned);
    if (counts_.damaged != 0) {
      return absl::DataLossError(counts_.first_damage);
    }
    // Foreign frames may come for ever.
    const MonotonicTime now = std::chrono::steady_clock::now();
    if (counts_.arrived + counts_.returned != before) last = now;
    if (now - last >= options_.timeout) return missing();
  }
  return absl::OkStatus();
}

absl::Status NetEcho::missing() const {
  return absl::DeadlineExceededError(absl::StrCat(
      "no frame came for ",
      absl::FormatDuration(absl::FromChrono(options_.timeout)), ": ",
      counts_.sent, " sent, ", counts_.arrived, " arrived at port b, ",
      counts_.returned, " returned to port a"));
}

// As many as there is room for.
absl::Status NetEcho::send_queued(Port& from, EchoWay way) {
  for (; from.next_to_send < from.to_send.size(); ++from.next_to_send) {
    const uint64_t number = from.to_send[from.next_to_send];
    fill_echo_frame(options_.seed, way, number, scratch_);
    const auto pair = static_cast<uint32_t>(number % from.end->pairs());
    const absl::Status sent = from.end->send(scratch_, number, pair);
    if (absl::IsResourceExhausted(sent)) return absl::OkStatus();
    VHOST_RETURN_IF_ERROR(sent);
  }
  from.to_send.clear();
  from.next_to_send = 0;
  return absl::OkStatus();
}

absl::Status ClientPort::take_sent() {
  std::array<NetSent, kFramesAtOnce> sent;
  size_t count = 0;
  do {
    count = client_.poll_sent(sent);
    for (size_t i = 0; i < count; ++i) VHOST_RETURN_IF_ERROR(sent[i].status);
  } while (count == sent.size());
  return client_.status();
}

// Takes what came, counts and answers it.
void NetEcho::receive(Port& port, uint64_t& good) {
  // One batch: what is left is news for the next wait.
  const size_t count = port.end->receive(frames_);
  for (const NetFrame& frame : std::span(frames_).first(count)) {
    uint64_t number = 0;
    if (!check(port, frame, number)) continue;
    ++good;
    counts_.bytes += frame.bytes.size();
    if (port.expects == EchoWay::kThere) port.to_send.push_back(number);
  }
}

// Whether `frame` is what was sent, for the first time.
bool NetEcho::check(Port& port, const NetFrame& frame, uint64_t& number) {
  EchoHead head;
  const bool long_enough = frame.bytes.size() >= sizeof(head);
  if (long_enough) std::memcpy(&head, frame.bytes.data(), sizeof(head));
  if (!long_enough || head.type != kType || head.seed != options_.seed ||
      head.number >= counts_.sent ||
      head.way != static_cast<uint8_t>(port.expects)) {
    ++counts_.foreign;
    return false;
  }
  number = head.number;
  fill_echo_frame(options_.seed, port.expects, number, scratch_);
  if (frame.bytes != scratch_) {
    const auto differs = std::mismatch(frame.bytes.begin(), frame.bytes.end(),
                                       scratch_.begin(), scratch_.end())
                             .first -
                         frame.bytes.begin();
    if (++counts_.damaged == 1) {
      counts_.first_damage = absl::StrCat(
          "frame ", number, " of ", scratch_.size(), " bytes came with ",
          frame.bytes.size(), " and differs at byte ", differs);
    }
    return false;
  }
  if (port.seen[number]) {
    ++counts_.repeated;
    return false;
  }
  port.seen[number] = true;
  return true;
}

}  // namespace vhost::ctl
