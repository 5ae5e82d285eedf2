// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/front_end_scenario.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/user/codec.h"
#include "backends/user/socket_io.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {
namespace {

constexpr uint32_t kConfigSize = 60;
constexpr uint64_t kGpa = 1 << 20;
constexpr uint64_t kUser = 0x7f00'0000'0000;
constexpr uint64_t kMemory = 1 << 16;
// Turns of both sides in which one verb ends, or never will.
constexpr int kMostTurns = 64;
constexpr size_t kMostVerbs = 64;

void require(bool condition, absl::string_view what) {
  if (condition) return;
  std::fprintf(stderr, "front-end: %s\n", std::string(what).c_str());
  std::abort();
}

// The input, front to back; zeros behind its end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  uint8_t byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  uint64_t u64() {
    uint64_t out = 0;
    for (int shift = 0; shift < 64; shift += 8) {
      out |= uint64_t{byte()} << shift;
    }
    return out;
  }
  bool empty() const { return size_ == 0; }

 private:
  const uint8_t* data_;
  size_t size_;
};

// The back-end: one side of a socket pair.
class Peer {
 public:
  Peer(UniqueFd socket, Input& input)
      : socket_(std::move(socket)), input_(input) {
    features_ = uint64_t{0x1'7000'0000} ^ input.u64();
    protocol_features_ = uint64_t{0xff'ffff} ^ input.u64();
    queue_num_ = 8 ^ input.u64();
    slots_ = 32 ^ input.u64();
  }

  // Reads and answers all that is there.
  void serve(bool meddles) {
    while (socket_.valid() && read_request()) {
      const Request id{header_.request};
      const bool need_reply = (header_.flags & wire::kNeedReplyFlag) != 0;
      const auto shape = reply_shape(id, need_reply, log_shmfd());
      if (!shape) continue;
      answer(id, *shape, meddles ? input_.byte() : uint8_t{0});
    }
  }

 private:
  bool log_shmfd() const {
    return (protocol_features_ & bit_mask(kProtocolLogShmfd)) != 0;
  }

  bool read_request() {
    Received head =
        receive_some(socket_, std::as_writable_bytes(std::span(&header_, 1)));
    if (head.outcome != ReceiveOutcome::kReceived) return false;
    require(head.bytes == sizeof(header_), "a header comes whole");
    require(header_.size <= payload_.size(), "a request is as large as that");
    if (header_.size == 0) return true;
    const Received body =
        receive_some(socket_, std::span(payload_).first(header_.size));
    require(body.bytes == header_.size, "a payload comes whole");
    require(body.fds.empty(), "descriptors come with the first byte");
    return true;
  }

  void answer(Request id, const ReplyShape& shape, uint8_t mischief) {
    std::vector<std::byte> body = right_body(id, shape);
    bool with_fd = right_fd(id, shape);
    switch (mischief / 16) {
      case 8:
      case 9:
        body.assign(sizeof(uint64_t), std::byte{0});
        body[0] = std::byte{input_.byte()};
        with_fd = false;
        break;
      case 10:
      case 11:
        for (std::byte& byte : body) byte = std::byte{input_.byte()};
        break;
      case 12: {
        std::vector<std::byte> raw(input_.byte());
        for (std::byte& byte : raw) byte = std::byte{input_.byte()};
        return send(raw, false);
      }
      case 13:
        with_fd = !with_fd;
        break;
      case 14:
        return;
      case 15:
        socket_.reset();
        return;
      default:
        break;
    }
    const wire::Header header = {.request = to_int(id),
                                 .flags = kReplyFlags,
                                 .size = static_cast<uint32_t>(body.size())};
    const auto head = wire::bytes_of(header);
    body.insert(body.begin(), head.begin(), head.end());
    send(body, with_fd);
  }

  std::vector<std::byte> right_body(Request id, const ReplyShape& shape) {
    std::vector<std::byte> body(shape.size.min);
    const auto u64 = [&body](uint64_t value) {
      std::memcpy(body.data(), &value, std::min(body.size(), sizeof(value)));
    };
    switch (id) {
      case Request::kGetFeatures:
        u64(features_);
        break;
      case Request::kGetProtocolFeatures:
        u64(protocol_features_);
        break;
      case Request::kGetQueueNum:
        u64(queue_num_);
        break;
      case Request::kGetMaxMemSlots:
        u64(slots_);
        break;
      case Request::kGetStatus:
        u64(status_);
        break;
      case Request::kSetStatus:
        status_ = std::to_integer<uint8_t>(payload_[0]);
        break;
      case Request::kSetDeviceStateFd:
        u64(wire::kStateNoFdFlag);
        break;
      case Request::kGetInflightFd:
        // Its first field: how large the area is.
        payload_[1] = std::byte{16};
        [[fallthrough]];
      case Request::kGetConfig:
      case Request::kGetVringBase:
        body.assign(payload_.begin(), payload_.begin() + header_.size);
        break;
      default:
        break;
    }
    return body;
  }

  bool right_fd(Request id, const ReplyShape& shape) const {
    return shape.fds.min > 0 || id == Request::kGetInflightFd;
  }

  void send(std::span<const std::byte> bytes, bool with_fd) {
    if (bytes.empty()) return;
    const UniqueFd any(with_fd ? ::open("/dev/null", O_RDWR | O_CLOEXEC) : -1);
    const int fd = any.get();
    static_cast<void>(
        send_some(socket_, bytes, std::span(&fd, with_fd ? 1 : 0)));
  }

  UniqueFd socket_;
  Input& input_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  uint64_t queue_num_ = 0;
  uint64_t slots_ = 0;
  uint8_t status_ = 0;
  wire::Header header_ = {};
  std::array<std::byte, 4096> payload_ = {};
};

class Sink final : public BackendSink, public BackendServices {
 public:
  void on_config_changed() override {}
  absl::Status on_vring_call(BackendQueue) override { return absl::OkStatus(); }
  absl::Status on_vring_error(BackendQueue) override {
    return absl::OkStatus();
  }
  void on_lost(const absl::Status&) override { ++lost; }
  BackendServices& services() override { return *this; }

  int lost = 0;
};

// The table after a MemoryDiff, for a back-end that takes only whole ones.
class Table final : public MemorySnapshot {
 public:
  explicit Table(std::vector<MemoryTableEntry> entries)
      : entries_(std::move(entries)) {}
  uint64_t generation() const override { return 1; }
  size_t size() const override { return entries_.size(); }
  std::span<const MemoryTableEntry> entries() const override {
    return entries_;
  }
  const MemoryTableEntry* find(uint64_t, uint64_t) const override {
    return nullptr;
  }

 private:
  std::vector<MemoryTableEntry> entries_;
};

class Scenario {
 public:
  Scenario(const uint8_t* data, size_t size)
      : input_(data, size), fd_(::eventfd(0, EFD_CLOEXEC)) {}

  FrontEndScenario run() {
    auto pair = make_pair();
    require(pair.ok(), "socket pair");
    Peer peer(std::move(pair->second), input_);
    ops_ = make_vhost_user_ops(
        UseSocket{std::make_shared<UniqueFd>(std::move(pair->first))});
    ops_->attach(nullptr, &sink_);
    const uint8_t first = input_.byte();
    bool open = drive(peer, Open{.config_size = kConfigSize}, first);
    if (open) check_traits();
    for (size_t i = 0; open && i < kMostVerbs && !input_.empty(); ++i) {
      const uint8_t control = input_.byte();
      drive(peer, verb(control % 21), control);
      open = sink_.lost == 0;
    }
    require(sink_.lost <= 1, "a loss is told once");
    return std::move(out_);
  }

 private:
  // Whether it succeeded.
  bool drive(Peer& peer, Verb verb, uint8_t control) {
    const std::string name(verb_name(verb));
    const MonotonicTime now = std::chrono::steady_clock::now();
    int completed = 0;
    BatchResult result;
    const Pending pending = ops_->submit(
        std::move(verb), now + std::chrono::seconds(10), [&](BatchResult got) {
          ++completed;
          result = std::move(got);
        });
    for (int turn = 0; turn < kMostTurns && completed == 0; ++turn) {
      peer.serve((control & 0x80) != 0);
      ops_->pump(now);
    }
    if (completed == 0) {
      out_.silent = true;
      ops_->close(absl::DeadlineExceededError("no answer"));
      ++sink_.lost;  // Closing is not told: it ends the scenario likewise.
    }
    require(completed == 1, absl::StrCat(name, " completes once"));
    check_result(name, result);
    return result.status.ok();
  }

  void check_result(const std::string& name, const BatchResult& result) {
    if (result.status.ok()) {
      require(result.refused.empty() && result.unknown.empty(),
              absl::StrCat(name, " succeeded as a whole"));
      out_.done.insert(name);
      return;
    }
    require(!result.status.message().empty(), "an error says something");
    out_.refused |= absl::IsAborted(result.status);
    out_.malformed |= absl::IsDataLoss(result.status);
    if (!result.unknown.empty()) {
      require(!absl::IsAborted(result.status), "unknown is not refused");
    }
  }

  void check_traits() {
    const BackendTraits& traits = ops_->traits();
    require(traits.max_queues >= 1 && traits.max_queues <= kMaxQueues,
            "a back-end has 1 to 1024 queues");
    require((traits.protocol_features & ~traits.offered_protocol_features) == 0,
            "what is in use was offered");
  }

  Verb verb(uint8_t which);
  Configure configure();
  MemoryDiff memory(bool add);
  VringSetup ring(uint32_t index);

  Input input_;
  UniqueFd fd_;
  Sink sink_;
  std::unique_ptr<VhostOps> ops_;
  FrontEndScenario out_;
};

VringSetup Scenario::ring(uint32_t index) {
  VringSetup out;
  out.index = BackendQueue{index};
  out.num = 256;
  out.addr.desc = {.gpa = kGpa, .size = 4096, .user = kUser};
  out.addr.avail = {.gpa = kGpa + 4096, .size = 518, .user = kUser + 4096};
  out.addr.used = {.gpa = kGpa + 8192, .size = 2054, .user = kUser + 8192};
  out.kick = NotifyRef::by_fd(fd_);
  out.call = NotifyRef::by_fd(fd_);
  out.err = NotifyRef::by_fd(fd_);
  return out;
}

MemoryDiff Scenario::memory(bool add) {
  MemoryTableEntry entry;
  entry.gpa = kGpa;
  entry.size = kMemory;
  entry.user = kUser;
  entry.fd = fd_;
  MemoryDiff diff;
  std::vector<MemoryTableEntry> after;
  (add ? diff.added : diff.removed).push_back(entry);
  if (add) after.push_back(entry);
  diff.after = std::make_shared<const Table>(std::move(after));
  return diff;
}

Configure Scenario::configure() {
  Configure out;
  out.memory = memory(true);
  out.queues.push_back(ring(0));
  out.queues.push_back(ring(1));
  return out;
}

Verb Scenario::verb(uint8_t which) {
  const BackendQueue q0{0};
  const BackendQueue q1{1};
  switch (which) {
    case 0:
      return SetFeatures{.features = {kFeatureVersion1}};
    case 1:
      return GetInflight{.num_queues = 2, .queue_size = 256};
    case 2:
      return configure();
    case 3: {
      Go go;
      go.queues.push_back({.index = q0, .kick = NotifyRef::by_fd(fd_)});
      go.queues.push_back({.index = q1, .kick = NotifyRef::by_fd(fd_)});
      return go;
    }
    case 4:
      return DriverOk();
    case 5:
      return Quiesce{.queues = {q0, q1}};
    case 6:
      return Harvest{.queues = {q0, q1}};
    case 7:
      return ResetStatus();
    case 8:
      return ResetDevice();
    case 9: {
      SetQueuesEnabled set;
      set.queues.push_back({.index = q1, .enabled = true});
      return set;
    }
    case 10:
      return UpdateMemory{.diff = memory(true)};
    case 11:
      return UpdateMemory{.diff = memory(false)};
    case 12: {
      SetCalls calls;
      calls.queues.push_back({.index = q0, .call = NotifyRef::by_fd(fd_)});
      return calls;
    }
    case 13:
      return SetLog{.log = {.size = 4096, .fd = fd_}};
    case 14:
      return GetConfig{.offset = 0, .size = kConfigSize};
    case 15:
      return SetConfig{.offset = 0, .bytes = {std::byte{1}}};
    case 16:
      return SetDeviceStateFd{.direction = StateDirection::kSave, .fd = fd_};
    case 17:
      return CheckDeviceState();
    case 18:
      return SetMtu{.mtu = 1500};
    case 19:
      return SendRarp();
    default: {
      SetRingLogging logging;
      logging.queues.push_back(ring(0));
      return logging;
    }
  }
}

}  // namespace

FrontEndScenario run_front_end_scenario(const uint8_t* data, size_t size) {
  return Scenario(data, size).run();
}

}  // namespace vhost::user
