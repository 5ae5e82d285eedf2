// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/instant_backend.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/message_table.h"
#include "tests/bench/instant_rings.h"
#include "vhostdev/blk_client.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::bench {
namespace {

namespace wire = user::wire;
using user::Request;

constexpr size_t kMaxTrace = 8192;
constexpr uint64_t kDiskSectors = 1 << 21;  // 1 GiB.
constexpr uint32_t kMaxPayload = 4096;
constexpr uint64_t kMaxSlots = 509;
// How often rings are looked at before the socket is.
constexpr int kRingRounds = 1024;

FeatureSet base_features() {
  return {kBlkFeatureSegMax, kBlkFeatureBlkSize, kBlkFeatureFlush,
          kBlkFeatureMq,     kFeatureLogAll,     kFeatureProtocolFeatures,
          kFeatureVersion1};
}

uint64_t protocol_features(bool with_status) {
  uint64_t out = 0;
  for (const unsigned bit :
       {kProtocolMq, kProtocolLogShmfd, kProtocolReplyAck, kProtocolBackendReq,
        kProtocolConfig, kProtocolConfigureMemSlots}) {
    out |= user::bit_mask(bit);
  }
  return with_status ? out | user::bit_mask(kProtocolStatus) : out;
}

// A message while it is answered.
struct Message {
  wire::Header header;
  alignas(8) std::array<std::byte, kMaxPayload> payload;
  std::vector<UniqueFd> fds;

  template <typename T>
  T get() const {
    T value;
    std::memcpy(&value, payload.data(), sizeof(value));
    return value;
  }
  template <typename T>
  void put(const T& value) {
    std::memcpy(payload.data(), &value, sizeof(value));
    header.size = sizeof(value);
  }
};

enum class Received : uint8_t { kMessage, kNothing, kGone };

Received receive(int socket, bool wait, Message& message) {
  iovec vector = {&message.header, sizeof(message.header)};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * wire::kMaxFds)];
  msghdr header = {};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  const int flags = MSG_CMSG_CLOEXEC | (wait ? MSG_WAITALL : MSG_DONTWAIT);
  const ssize_t done = ::recvmsg(socket, &header, flags);
  if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
    return Received::kNothing;
  }
  message.fds.clear();
  for (cmsghdr* rights = CMSG_FIRSTHDR(&header); rights != nullptr;
       rights = CMSG_NXTHDR(&header, rights)) {
    const size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof(int), sizeof(fd));
      message.fds.emplace_back(fd);
    }
  }
  const size_t size = message.header.size;
  if (done != sizeof(message.header) || size > kMaxPayload) {
    return Received::kGone;
  }
  if (size == 0) return Received::kMessage;
  const ssize_t payload =
      ::recv(socket, message.payload.data(), size, MSG_WAITALL);
  return payload == static_cast<ssize_t>(size) ? Received::kMessage
                                               : Received::kGone;
}

UniqueFd take_fd(Message& message) {
  return message.fds.empty() ? UniqueFd() : std::move(message.fds[0]);
}

}  // namespace

struct InstantBackend::Trace {
  std::atomic<uint32_t> count = 0;
  std::array<TracedMessage, kMaxTrace> messages;
};

// The process.
class InstantBackend::Server {
 public:
  Server(const Options& options, Trace* trace)
      : options_(options), trace_(trace) {}

  [[noreturn]] void serve(int listener) {
    for (;;) {
      const UniqueFd socket(
          ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket.valid()) continue;
      rings_.reset(options_.queues);
      while (turn(socket.get())) {
      }
    }
  }

 private:
  // One message, or some rounds over the rings.
  bool turn(int socket) {
    const bool busy = options_.serve_rings && rings_.any_enabled();
    const Received received = receive(socket, !busy, message_);
    if (received == Received::kGone) return false;
    if (received == Received::kNothing) {
      for (int i = 0; busy && i < kRingRounds; ++i) rings_.poll();
      return true;
    }
    note();
    const uint32_t flags = message_.header.flags;
    const bool answered = handle(static_cast<Request>(message_.header.request));
    if (!answered) {
      if ((flags & wire::kNeedReplyFlag) == 0) return true;
      message_.put(uint64_t{0});
    }
    return reply(socket);
  }

  void note() {
    const uint32_t at = trace_->count.load(std::memory_order_relaxed);
    if (at >= kMaxTrace) return;
    TracedMessage& traced = trace_->messages[at];
    traced.header = message_.header;
    std::memcpy(traced.payload.data(), message_.payload.data(),
                std::min<size_t>(message_.header.size, traced.payload.size()));
    traced.fds = static_cast<uint32_t>(message_.fds.size());
    trace_->count.store(at + 1, std::memory_order_release);
  }

  bool reply(int socket) {
    message_.header.flags = wire::kVersion | wire::kReplyFlag;
    iovec parts[] = {{&message_.header, sizeof(message_.header)},
                     {message_.payload.data(), message_.header.size}};
    msghdr header = {};
    header.msg_iov = parts;
    header.msg_iovlen = 2;
    return ::sendmsg(socket, &header, MSG_NOSIGNAL) > 0;
  }

  // True if there is an answer of its own in message_.
  bool handle(Request id) {
    switch (id) {
      case Request::kGetFeatures:
        message_.put((base_features() | options_.features).low());
        return true;
      case Request::kGetProtocolFeatures:
        message_.put(protocol_features(options_.with_status));
        return true;
      case Request::kGetQueueNum:
        message_.put(uint64_t{options_.queues});
        return true;
      case Request::kGetMaxMemSlots:
        message_.put(kMaxSlots);
        return true;
      case Request::kGetStatus:
        message_.put(status_);
        return true;
      case Request::kGetConfig:
        get_config();
        return true;
      case Request::kSetLogBase:
        message_.put(uint64_t{0});
        return true;
      case Request::kSetStatus:
        status_ = message_.get<uint64_t>();
        return false;
      default:
        return handle_rings(id);
    }
  }

  bool handle_rings(Request id) {
    const auto state = message_.get<wire::VringState>();
    switch (id) {
      case Request::kAddMemReg:
        if (options_.serve_rings) {
          rings_.add_memory(message_.get<wire::SingleMemoryRegion>().region,
                            take_fd(message_));
        }
        return false;
      case Request::kSetVringNum:
        rings_.at(state.index).num = state.num;
        return false;
      case Request::kSetVringBase:
        rings_.at(state.index).next = static_cast<uint16_t>(state.num);
        return false;
      case Request::kSetVringAddr:
        rings_.set_addresses(message_.get<wire::VringAddr>());
        return false;
      case Request::kSetVringEnable:
        rings_.enable(state.index, state.num != 0);
        return false;
      case Request::kSetVringKick:
        rings_.at(state.index & wire::kVringIndexMask).kick = take_fd(message_);
        return false;
      case Request::kSetVringCall:
        rings_.at(state.index & wire::kVringIndexMask).call = take_fd(message_);
        return false;
      case Request::kGetVringBase:
        rings_.enable(state.index, false);
        message_.put(
            wire::VringState{state.index, rings_.at(state.index).next});
        return true;
      default:
        return false;
    }
  }

  void get_config() {
    std::array<std::byte, wire::kMaxConfigBytes> config = {};
    const uint64_t capacity = kDiskSectors;
    const uint32_t seg_max = 126;
    const uint32_t block_size = kBlkSectorSize;
    const auto queues = static_cast<uint16_t>(options_.queues);
    std::memcpy(&config[0], &capacity, sizeof(capacity));
    std::memcpy(&config[12], &seg_max, sizeof(seg_max));
    std::memcpy(&config[20], &block_size, sizeof(block_size));
    std::memcpy(&config[34], &queues, sizeof(queues));
    const auto head = message_.get<wire::ConfigHead>();
    const size_t offset = std::min<size_t>(head.offset, config.size());
    const size_t size = std::min<size_t>(head.size, config.size() - offset);
    std::memcpy(&message_.payload[sizeof(head)], &config[offset], size);
  }

  const Options options_;
  Trace* trace_;
  Message message_;
  InstantRings rings_;
  uint64_t status_ = 0;
};

absl::StatusOr<std::unique_ptr<InstantBackend>> InstantBackend::spawn(
    const Options& options) {
  static int number = 0;
  const std::string path =
      absl::StrCat("/tmp/vhostdev-bench-", ::getpid(), "-", number++);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address),
             sizeof(address)) != 0 ||
      ::listen(listener.get(), 8) != 0) {
    return errno_status(errno, absl::StrCat("listen ", path));
  }
  void* shared = ::mmap(nullptr, sizeof(Trace), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return errno_status(errno, "mmap");
  auto backend = std::unique_ptr<InstantBackend>(
      new InstantBackend(path, new (shared) Trace));
  const pid_t parent = ::getpid();
  backend->child_ = ::fork();
  if (backend->child_ < 0) return errno_status(errno, "fork");
  if (backend->child_ > 0) return backend;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(0);
  pin_to(options.cpu);
  Server(options, backend->trace_).serve(listener.get());
}

InstantBackend::InstantBackend(std::string path, Trace* trace)
    : path_(std::move(path)), trace_(trace) {}

InstantBackend::~InstantBackend() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  ::unlink(path_.c_str());
  ::munmap(trace_, sizeof(Trace));
}

void InstantBackend::pause() { ::kill(child_, SIGSTOP); }
void InstantBackend::resume() { ::kill(child_, SIGCONT); }

std::vector<TracedMessage> InstantBackend::trace() const {
  const uint32_t count = trace_->count.load(std::memory_order_acquire);
  return {trace_->messages.begin(), trace_->messages.begin() + count};
}

void InstantBackend::clear_trace() { trace_->count = 0; }

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  ::sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace vhost::bench
