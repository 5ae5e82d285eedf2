// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_vsock.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kEventQueue = 2;
// Of one packet.  Source: what Linux makes at most.
constexpr size_t kMostPayload = 64 << 10;

}  // namespace

ModelVsock::ModelVsock(ModelVsockOptions options)
    : options_(std::move(options)), guest_cid_(options_.guest_cid) {}

ModelVsock::~ModelVsock() = default;

void ModelVsock::wake() {
  if (wake_) wake_();
}

void ModelVsock::set_waker(std::function<void()> wake) {
  const absl::MutexLock lock(&mutex_);
  wake_ = std::move(wake);
}

void ModelVsock::connect(uint32_t port) {
  const absl::MutexLock lock(&mutex_);
  const Key key = {{kVsockHostCid, next_port_++}, {guest_cid_, port}};
  connections_[key];
  answer(key, VsockOp::kRequest);
  wake();
}

void ModelVsock::transport_reset(uint64_t guest_cid) {
  const absl::MutexLock lock(&mutex_);
  counters_.closed += connections_.size();
  connections_.clear();
  answers_.clear();
  guest_cid_ = guest_cid;
  event_pending_ = options_.has_event_queue;
  wake();
}

void ModelVsock::hold(bool held) {
  const absl::MutexLock lock(&mutex_);
  held_ = held;
  wake();
}

ModelVsockCounters ModelVsock::counters() const {
  const absl::MutexLock lock(&mutex_);
  return counters_;
}

size_t ModelVsock::connections() const {
  const absl::MutexLock lock(&mutex_);
  return connections_.size();
}

std::vector<std::byte> ModelVsock::config() const {
  const absl::MutexLock lock(&mutex_);
  const auto bytes = encode_vsock_config(guest_cid_);
  return {bytes.begin(), bytes.end()};
}

absl::Status ModelVsock::write_config(uint32_t offset,
                                      std::span<const std::byte> bytes,
                                      bool migration) {
  if (!migration) {
    return absl::InvalidArgumentError("a driver writes no field of it");
  }
  std::vector<std::byte> all = config();
  std::copy(bytes.begin(), bytes.end(), all.begin() + offset);
  const absl::StatusOr<uint64_t> cid = decode_vsock_config(all);
  if (!cid.ok()) return absl::InvalidArgumentError("no such guest");
  const absl::MutexLock lock(&mutex_);
  guest_cid_ = *cid;
  return absl::OkStatus();
}

void ModelVsock::reset() {
  const absl::MutexLock lock(&mutex_);
  counters_.closed += connections_.size();
  connections_.clear();
  answers_.clear();
  event_pending_ = false;
}

ModelQueueUse ModelVsock::use_of(uint32_t queue) const {
  return queue == 0 || queue == kEventQueue ? ModelQueueUse::kReceive
                                            : ModelQueueUse::kRequests;
}

// -- From the guest -----------------------------------------------------------

absl::StatusOr<uint32_t> ModelVsock::handle(const ModelRequest& request) {
  const uint64_t size = total_size(request.readable);
  if (!request.writable.empty() || size < kVsockHeaderSize ||
      size > kVsockHeaderSize + kMostPayload) {
    return absl::InvalidArgumentError(
        absl::StrCat("a packet of ", size, " bytes, and ",
                     total_size(request.writable), " to write"));
  }
  std::vector<std::byte> packet(size);
  copy_from(request.readable, packet);
  const absl::StatusOr<VsockHeader> header = decode_vsock_header(packet);
  if (!header.ok())
    return absl::InvalidArgumentError(header.status().message());
  const absl::MutexLock lock(&mutex_);
  take(*header, std::span(packet).subspan(kVsockHeaderSize, header->length));
  if (answers_.size() > kMostAnswers) {
    return absl::InvalidArgumentError(
        absl::StrCat(answers_.size(), " packets wait for buffers"));
  }
  wake();
  return 0u;
}

void ModelVsock::take(const VsockHeader& header,
                      std::span<const std::byte> payload) {
  const Key key = {header.destination, header.source};
  if (header.source.cid != guest_cid_ ||
      header.destination.cid != kVsockHostCid ||
      header.type != kVsockTypeStream) {
    return violate(key);
  }
  const auto found = connections_.find(key);
  if (header.op == VsockOp::kReset) return forget(key);
  if (found == connections_.end()) return take_request(header, key);
  Connection& connection = found->second;
  const uint32_t under_way = connection.sent - header.forwarded;
  const bool carries = header.op == VsockOp::kData || header.length == 0;
  if (under_way > connection.sent - connection.guest_forwarded || !carries) {
    return violate(key);
  }
  connection.guest_forwarded = header.forwarded;
  connection.guest_buffer = header.buffer_size;
  if (connection.open) return take_open(header, payload, key, connection);
  if (header.op != VsockOp::kResponse) return violate(key);
  connection.open = true;
}

void ModelVsock::take_request(const VsockHeader& header, const Key& key) {
  const bool listens =
      options_.ports.empty() || options_.ports.contains(key.first.port);
  if (header.op != VsockOp::kRequest || !listens ||
      connections_.size() >= kMostConnections) {
    ++counters_.refused;
    return answer(key, VsockOp::kReset);
  }
  ++counters_.accepted;
  Connection& connection = connections_[key];
  connection.open = true;
  connection.guest_buffer = header.buffer_size;
  answer(key, VsockOp::kResponse);
}

void ModelVsock::take_open(const VsockHeader& header,
                           std::span<const std::byte> payload, const Key& key,
                           Connection& connection) {
  switch (header.op) {
    case VsockOp::kCreditUpdate:
      return;
    case VsockOp::kCreditRequest:
      return answer(key, VsockOp::kCreditUpdate);
    case VsockOp::kData:
      if (connection.last_came ||
          connection.echo.size() + payload.size() > options_.stream_buffer) {
        return violate(key);
      }
      counters_.bytes_from_guest += payload.size();
      connection.echo.insert(connection.echo.end(), payload.begin(),
                             payload.end());
      return;
    case VsockOp::kShutdown:
      if ((header.flags & kVsockShutdownReceive) != 0) {
        answer(key, VsockOp::kReset);
        return forget(key);
      }
      connection.last_came = true;
      return;
    default:
      return violate(key);
  }
}

void ModelVsock::violate(const Key& key) {
  ++counters_.violations;
  forget(key);
  answer(key, VsockOp::kReset);
}

void ModelVsock::forget(const Key& key) {
  counters_.closed += connections_.erase(key);
}

// -- To the guest -------------------------------------------------------------

VsockHeader ModelVsock::header_of(const Key& key, VsockOp op) {
  VsockHeader out = {.source = key.first, .destination = key.second, .op = op};
  const auto found = connections_.find(key);
  if (found != connections_.end()) {
    out.buffer_size = options_.stream_buffer;
    out.forwarded = found->second.forwarded;
  }
  return out;
}

void ModelVsock::answer(const Key& key, VsockOp op, uint32_t flags) {
  answers_.push_back(header_of(key, op));
  answers_.back().flags = flags;
}

uint32_t ModelVsock::sendable(const Connection& connection) {
  const uint32_t under_way = connection.sent - connection.guest_forwarded;
  const uint32_t room = connection.guest_buffer > under_way
                            ? connection.guest_buffer - under_way
                            : 0;
  return static_cast<uint32_t>(std::min<size_t>(room, connection.echo.size()));
}

bool ModelVsock::has_packet() const {
  if (!answers_.empty()) return true;
  if (held_) return false;
  return std::any_of(
      connections_.begin(), connections_.end(), [](const auto& entry) {
        const Connection& connection = entry.second;
        return connection.open &&
               (sendable(connection) != 0 ||
                (connection.last_came && connection.echo.empty() &&
                 !connection.closing));
      });
}

// The guest's last byte went back: so do we end.
void ModelVsock::close_drained() {
  for (auto& [key, connection] : connections_) {
    if (!connection.last_came || !connection.echo.empty() ||
        connection.closing) {
      continue;
    }
    connection.closing = true;
    answer(key, VsockOp::kShutdown, kVsockShutdownBoth);
  }
}

std::optional<std::vector<std::byte>> ModelVsock::next_packet(size_t room) {
  VsockHeader header;
  std::vector<std::byte> out(kVsockHeaderSize);
  if (answers_.empty() && !held_) close_drained();
  if (!answers_.empty()) {
    header = answers_.front();
    answers_.pop_front();
  } else {
    const auto ready = std::find_if(
        connections_.begin(), connections_.end(), [](const auto& entry) {
          return entry.second.open && sendable(entry.second) != 0;
        });
    if (held_ || ready == connections_.end()) return std::nullopt;
    Connection& connection = ready->second;
    const size_t size =
        std::min({size_t{sendable(connection)}, room, kMostPayload});
    const auto end = connection.echo.begin() + static_cast<ptrdiff_t>(size);
    out.insert(out.end(), connection.echo.begin(), end);
    connection.echo.erase(connection.echo.begin(), end);
    connection.forwarded += static_cast<uint32_t>(size);
    header = header_of(ready->first, VsockOp::kData);
    header.length = static_cast<uint32_t>(size);
    connection.sent += header.length;
    counters_.bytes_to_guest += size;
  }
  encode_vsock_header(header, std::span(out).first<kVsockHeaderSize>());
  return out;
}

absl::StatusOr<ModelReceived> ModelVsock::receive(
    uint32_t queue, std::span<const ModelRequest> buffers) {
  const absl::MutexLock lock(&mutex_);
  ModelReceived out;
  const bool event = queue == kEventQueue;
  if (event ? !event_pending_ : !has_packet()) return out;
  if (buffers.empty()) {
    out.wants_buffer = true;
    return out;
  }
  const ModelRequest& buffer = buffers.front();
  const uint64_t size = total_size(buffer.writable);
  const size_t least = event ? kVsockEventSize : kVsockHeaderSize + 1;
  if (!buffer.readable.empty() || size < least) {
    return absl::InvalidArgumentError(
        absl::StrCat("a receive buffer of ", size, " bytes"));
  }
  std::vector<std::byte> bytes;
  if (event) {
    const auto reset = vsock_transport_reset_event();
    bytes.assign(reset.begin(), reset.end());
    event_pending_ = false;
  } else {
    std::optional<std::vector<std::byte>> packet =
        next_packet(size - kVsockHeaderSize);
    if (!packet.has_value()) return out;
    bytes = *std::move(packet);
  }
  copy_to(buffer.writable, bytes);
  out.written.push_back(static_cast<uint32_t>(bytes.size()));
  return out;
}

}  // namespace vhost::testing
