// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_VHOST_USER_OPS_H_
#define BACKENDS_USER_VHOST_USER_OPS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/user/link.h"
#include "backends/user/loop_binding.h"
#include "backends/user/operation.h"
#include "backends/user/session.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {

// A vhost-user back-end as VhostOps: verbs become batches of requests, replies
// become results.  Operations are answered in the order begun.
class VhostUserOps final : public VhostOps,
                           private Link::Client,
                           private BackendChannel::Host {
 public:
  VhostUserOps(VhostUserAddress address, VhostUserOptions options);
  ~VhostUserOps() override;
  VhostUserOps(const VhostUserOps&) = delete;
  VhostUserOps& operator=(const VhostUserOps&) = delete;

  const BackendTraits& traits() const override { return traits_; }
  Pending submit(Verb verb, MonotonicTime deadline,
                 Pending::Done done) override;
  void attach(EventLoop* loop, BackendSink* sink) override;
  void pump(MonotonicTime deadline) override;
  void close(const absl::Status& why) override;
  std::unique_ptr<PeerWatch> watch_for_peer(
      EventLoop& loop, EventLoop::Callback appeared) override {
    return link_.watch_for_peer(loop, std::move(appeared));
  }
  std::vector<std::string> recent() const override;
  BackendCounters counters() const override;

 private:
  // Where an Open stands; each state but the first two waits for replies.
  enum class OpenPhase : uint8_t {
    kNone,
    kLinking,
    kFeatures,          // GET_FEATURES
    kProtocolFeatures,  // GET_PROTOCOL_FEATURES
    kRest,              // Everything else, together.
  };

  // Link::Client
  void on_up() override;
  void on_reply(Connection::Reply reply) override;
  void on_down(const absl::Status& why) override;

  // BackendChannel::Host
  void on_config_changed() override;
  absl::Status on_vring_call(BackendQueue vq) override;
  absl::Status on_vring_error(BackendQueue vq) override;
  absl::Status on_iotlb_miss(uint64_t iova, IotlbAccess access) override;
  absl::Status on_host_notifier(BackendQueue vq,
                                HostNotifierArea area) override;
  BackendServices& services() override;
  bool takes_requests() const override;

  // handshake.cc
  void begin_open(const Open& verb, Operation operation);
  void open_next();
  absl::Status take_features();
  absl::Status take_protocol_features();
  void send_owner_only();
  absl::Status send_rest();
  absl::Status finish_open();
  void open_failed(const absl::Status& why);

  const MemorySnapshot* told_memory() const;
  absl::StatusOr<UpdateIotlb> translate(uint64_t iova, IotlbAccess access);

  void begin(const Verb& verb, Operation operation);
  void await(Operation operation);
  void complete_front();
  void deliver(Operation operation, BatchResult result);
  void lose(const absl::Status& why);
  void end_all(const absl::Status& why);

  MonotonicTime now() const;
  std::optional<MonotonicTime> next_deadline() const;
  void step(Link::Ready ready);
  void check_deadlines();
  Link::Ready wait_for_io(MonotonicTime until);
  void rearm();

  const VhostUserOptions options_;
  EventLoop* loop_ = nullptr;
  BackendSink* sink_ = nullptr;
  BackendServices no_services_;

  BackendTraits traits_ = initial_traits();
  Session session_;
  uint64_t most_memory_slots_ = 0;  // Of all connections so far.
  bool open_ = false;
  absl::Status lost_;  // Why it is not open, if it was.
  OpenPhase open_phase_ = OpenPhase::kNone;
  Open open_verb_;
  UniqueFd channel_peer_;  // On its way to the back-end.

  std::deque<Operation> operations_;  // Oldest first.
  size_t translations_ = 0;           // Of those, answers to IOTLB misses.
  uint64_t completed_ = 0;
  uint64_t waits_ = 0;
  int depth_ = 0;  // Of step() on the stack.
  // While pump() runs: what to add to the steady clock to get the loop's.
  std::optional<Duration> clock_offset_;

  Link link_;
  LoopBinding binding_;
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_VHOST_USER_OPS_H_
