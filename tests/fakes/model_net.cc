// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_net.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

// What a card without offloads carries: a payload of the largest MTU, an
// Ethernet header, a VLAN tag.
constexpr size_t kMostBytes = 0xffff + 18;

// In front of every frame.  Source: VIRTIO 1.3, "Device Operation".
struct NetHeader {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t hdr_len;
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
  uint16_t num_buffers;
};
static_assert(sizeof(NetHeader) == kNetHeaderSize);

// "Where is `mac`?", asked by itself: every switch on the way learns it.
// Source: RFC 903.
std::vector<std::byte> rarp_frame(const std::array<uint8_t, 6>& mac) {
  constexpr std::array<uint8_t, 10> kHead = {0x80, 0x35, 0, 1, 8,
                                             0,    6,    4, 0, 3};
  constexpr size_t kSmallestFrame = 60;
  constexpr size_t kSourceMac = 6;
  constexpr size_t kType = 12;
  constexpr size_t kSender = 22;
  constexpr size_t kTarget = 32;
  std::vector<std::byte> frame(kSmallestFrame);
  std::memset(frame.data(), 0xff, mac.size());
  std::memcpy(frame.data() + kType, kHead.data(), kHead.size());
  for (const size_t at : {kSourceMac, kSender, kTarget}) {
    std::memcpy(frame.data() + at, mac.data(), mac.size());
  }
  return frame;
}

}  // namespace

// What the two ends of a cable share: everything that another thread touches.
class ModelNet::Port {
 public:
  struct Frame {
    uint32_t pair;
    std::vector<std::byte> bytes;
  };

  Port(const ModelNetOptions& options)
      : backlog_(options.backlog),
        active_(options.pairs),
        config_{.mac = options.mac,
                .max_pairs = options.pairs,
                .mtu = options.mtu} {}

  // A frame arrives.
  void deliver(std::span<const std::byte> bytes, uint32_t pair) {
    const absl::MutexLock lock(&mutex_);
    if (!config_.link_up || inbox_.size() >= backlog_) {
      ++counters_.dropped;
      return;
    }
    inbox_.push_back({pair, {bytes.begin(), bytes.end()}});
    if (wake_) wake_();
  }

  // Calls `take` with the first frame for `pair`, if there is one; it is gone
  // if that returns true.
  bool first_for(uint32_t pair, const auto& take) {
    const absl::MutexLock lock(&mutex_);
    const auto mine = [&](const Frame& frame) {
      mutex_.AssertHeld();
      const bool there = frame.pair < active_.size() && active_[frame.pair];
      return (there ? frame.pair : 0) == pair;
    };
    const auto found = std::find_if(inbox_.begin(), inbox_.end(), mine);
    if (found == inbox_.end()) return false;
    if (take(*found)) inbox_.erase(found);
    return true;
  }

  void set_active(uint32_t pair, bool active) {
    const absl::MutexLock lock(&mutex_);
    if (pair < active_.size()) active_[pair] = active;
  }
  void set_waker(std::function<void()> wake) {
    const absl::MutexLock lock(&mutex_);
    wake_ = std::move(wake);
  }
  void count(uint64_t ModelNetCounters::*what) {
    const absl::MutexLock lock(&mutex_);
    ++(counters_.*what);
  }
  ModelNetCounters counters() const {
    const absl::MutexLock lock(&mutex_);
    return counters_;
  }
  NetConfig config() const {
    const absl::MutexLock lock(&mutex_);
    return config_;
  }
  void change(const auto& how) {
    const absl::MutexLock lock(&mutex_);
    how(config_);
  }

 private:
  mutable absl::Mutex mutex_;
  const size_t backlog_;
  std::deque<Frame> inbox_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> active_ ABSL_GUARDED_BY(mutex_);  // Receive queues.
  NetConfig config_ ABSL_GUARDED_BY(mutex_);
  ModelNetCounters counters_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
};

ModelNet::ModelNet(ModelNetOptions options)
    : options_(std::move(options)), port_(std::make_shared<Port>(options_)) {}

ModelNet::~ModelNet() = default;

void ModelNet::join(ModelNet& a, ModelNet& b) {
  a.peer_ = b.port_;
  b.peer_ = a.port_;
}

void ModelNet::inject(std::span<const std::byte> frame, uint32_t pair) {
  port_->deliver(frame, pair);
}

void ModelNet::set_link(bool up) {
  port_->change([up](NetConfig& config) { config.link_up = up; });
}

ModelNetCounters ModelNet::counters() const { return port_->counters(); }
uint16_t ModelNet::mtu() const { return port_->config().mtu; }

FeatureSet ModelNet::features() const {
  const FeatureSet all = {kNetFeatureMtu,    kNetFeatureMac,
                          kNetFeatureStatus, kNetFeatureMrgRxbuf,
                          kNetFeatureCtrlVq, kNetFeatureGuestAnnounce,
                          kNetFeatureMq};
  return all - options_.without;
}

std::vector<std::byte> ModelNet::config() const {
  const auto bytes = encode_net_config(port_->config());
  return {bytes.begin(), bytes.end()};
}

absl::Status ModelNet::write_config(uint32_t offset,
                                    std::span<const std::byte> bytes,
                                    bool migration) {
  if (!migration) {
    return absl::InvalidArgumentError("a driver writes no field of it");
  }
  std::vector<std::byte> all = config();
  std::copy(bytes.begin(), bytes.end(), all.begin() + offset);
  const absl::StatusOr<NetConfig> decoded = decode_net_config(features(), all);
  if (!decoded.ok()) return absl::InvalidArgumentError("no such device");
  port_->change([&](NetConfig& config) { config = *decoded; });
  return absl::OkStatus();
}

uint64_t ModelNet::protocol_features() const {
  return uint64_t{1} << kProtocolRarp | uint64_t{1} << kProtocolMtu;
}

ModelQueueUse ModelNet::use_of(uint32_t queue) const {
  return queue % 2 == 0 ? ModelQueueUse::kReceive : ModelQueueUse::kTransmit;
}

void ModelNet::set_active(uint32_t queue, bool active) {
  if (queue % 2 == 0) port_->set_active(queue / 2, active);
}

void ModelNet::set_waker(std::function<void()> wake) {
  port_->set_waker(std::move(wake));
}

void ModelNet::transmit(std::span<const std::byte> frame, uint32_t pair) {
  const std::shared_ptr<Port> peer = peer_.lock();
  const bool carried = peer != nullptr && port_->config().link_up &&
                       !frame.empty() && frame.size() <= kMostBytes;
  port_->count(carried ? &ModelNetCounters::from_guest
                       : &ModelNetCounters::dropped);
  if (carried) peer->deliver(frame, pair);
}

absl::StatusOr<uint32_t> ModelNet::handle(const ModelRequest& request) {
  if (!request.writable.empty()) {
    return absl::InvalidArgumentError("a frame to send with a writable part");
  }
  const uint64_t size = total_size(request.readable);
  if (size < kNetHeaderSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame to send of ", size, " bytes with its header"));
  }
  // One byte too many is dropped like all of them.
  std::vector<std::byte> frame(
      std::min<uint64_t>(size - kNetHeaderSize, kMostBytes + 1));
  copy_from(slice(request.readable, kNetHeaderSize, frame.size()), frame);
  transmit(frame, request.queue / 2);
  return 0u;
}

absl::StatusOr<ModelReceived> ModelNet::receive(
    uint32_t queue, std::span<const ModelRequest> buffers) {
  uint64_t room = 0;
  for (const ModelRequest& buffer : buffers) {
    const uint64_t size = total_size(buffer.writable);
    if (!buffer.readable.empty() || size < kNetHeaderSize) {
      return absl::InvalidArgumentError(
          absl::StrCat("a receive buffer of ", size, " bytes"));
    }
    room += size;
  }
  ModelReceived out;
  const auto take = [&](const Port::Frame& frame) {
    const bool mergeable = accepted_.has(kNetFeatureMrgRxbuf);
    const uint64_t needed = kNetHeaderSize + frame.bytes.size();
    if (needed > room && !mergeable && !buffers.empty()) {
      return true;  // Dropped.
    }
    if (needed > room) {
      out.wants_buffer = true;
      return false;
    }
    NetHeader header = {};
    header.num_buffers = static_cast<uint16_t>(buffers.size());
    std::vector<std::byte> bytes(needed);
    std::memcpy(bytes.data(), &header, sizeof(header));
    std::copy(frame.bytes.begin(), frame.bytes.end(),
              bytes.begin() + sizeof(header));
    size_t done = 0;
    for (const ModelRequest& buffer : buffers) {
      const size_t piece =
          copy_to(buffer.writable, std::span(bytes).subspan(done));
      out.written.push_back(static_cast<uint32_t>(piece));
      done += piece;
    }
    return true;
  };
  while (port_->first_for(queue / 2, take)) {
    if (out.wants_buffer) return out;
    if (!out.written.empty()) {
      port_->count(&ModelNetCounters::to_guest);
      return out;
    }
    port_->count(&ModelNetCounters::dropped);
  }
  return out;
}

absl::Status ModelNet::send_rarp(const std::array<uint8_t, 6>& mac) {
  port_->count(&ModelNetCounters::rarps);
  transmit(rarp_frame(mac), 0);
  return absl::OkStatus();
}

absl::Status ModelNet::set_mtu(uint64_t mtu) {
  if (mtu < options_.min_mtu || mtu > 0xffff) {
    return absl::InvalidArgumentError(absl::StrCat("mtu ", mtu));
  }
  port_->change(
      [&](NetConfig& config) { config.mtu = static_cast<uint16_t>(mtu); });
  return absl::OkStatus();
}

}  // namespace vhost::testing
