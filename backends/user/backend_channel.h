// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_BACKEND_CHANNEL_H_
#define BACKENDS_USER_BACKEND_CHANNEL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/codec.h"
#include "backends/user/message_log.h"
#include "vhostdev/backend_services.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::user {

// The channel on which the back-end makes requests, without the channel: bytes
// and descriptors in, answers out.  Requests are served inline, so that a
// back-end that waits for one is never waited for.
//
// A malformed message, or one that its feature does not allow a descriptor,
// closes this channel (status()) and nothing else.  A request whose feature was
// not negotiated is refused.
// Source: vhost-user.rst, "Back-end message types".
class BackendChannel {
 public:
  // Who serves the requests.
  class Host {
   public:
    virtual ~Host() = default;
    virtual void on_config_changed() = 0;
    virtual absl::Status on_vring_call(BackendQueue vq) = 0;
    virtual absl::Status on_vring_error(BackendQueue vq) = 0;
    // Finds the translation and sends it on the main channel, without waiting
    // for the answer there.
    virtual absl::Status on_iotlb_miss(uint64_t iova, IotlbAccess access) = 0;
    virtual absl::Status on_host_notifier(BackendQueue vq,
                                          HostNotifierArea area) = 0;
    virtual BackendServices& services() = 0;
    // False while it cannot take more: nothing is read until it can.
    virtual bool takes_requests() const { return true; }
  };

  // What to send next, in one sendmsg.
  struct Segment {
    std::span<const std::byte> bytes;  // Empty: nothing to send now.
    std::span<const int> fds;
  };

  // `protocol_features` are those negotiated.  `host` and `recorder` outlive
  // the channel.
  BackendChannel(uint64_t protocol_features, Host* host,
                 MessageRecorder* recorder);

  // The virtio features accepted; IOTLB requests need ACCESS_PLATFORM.
  void set_features(FeatureSet features) { features_ = features; }

  // Where to receive to.  Empty while a back-end that does not read its
  // answers has too many of them waiting, while the host takes no requests,
  // and once the channel is closed.
  std::span<std::byte> input_space();
  // `bytes` of it were filled, and `fds` came with them.
  void received(size_t bytes, std::vector<UniqueFd> fds);

  // Serves the complete requests that were received.
  // Errors: kDataLoss  the channel is closed: what it received was malformed.
  absl::Status serve(MonotonicTime now);

  // The next bytes; valid until the next call of anything here.
  Segment next_segment() const;
  void sent(size_t bytes);

  const absl::Status& status() const { return status_; }
  // Ends the channel: `why` is its status from then on, unless it had one.
  void fail(const absl::Status& why);

 private:
  struct Answer {
    size_t size = 0;  // Bytes of it not yet sent.
    UniqueFd fd;      // Goes with its first byte.
  };
  struct FdGroup {
    uint64_t begin = 0;
    uint64_t end = 0;
    std::vector<UniqueFd> fds;
  };

  absl::StatusOr<bool> serve_one(MonotonicTime now);
  absl::StatusOr<const MessageSpec*> check(const wire::Header& header) const;
  absl::Status claim_fds(BackendRequest id, std::span<const std::byte> payload,
                         uint64_t begin, uint64_t end,
                         std::vector<UniqueFd>& out);
  void record_request(const MessageSpec& spec, bool need_reply,
                      std::span<const std::byte> payload, size_t fds,
                      MonotonicTime now);
  bool allowed(const MessageSpec& spec) const;
  absl::Status dispatch(BackendRequest id, std::span<const std::byte> payload,
                        std::vector<UniqueFd> fds, UniqueFd& answer_fd);
  absl::Status serve_iotlb(std::span<const std::byte> payload);
  absl::Status serve_host_notifier(std::span<const std::byte> payload,
                                   std::vector<UniqueFd> fds);
  absl::Status serve_object(BackendRequest id,
                            std::span<const std::byte> payload,
                            UniqueFd& answer_fd);
  absl::Status serve_shmem(BackendRequest id,
                           std::span<const std::byte> payload,
                           std::vector<UniqueFd> fds);
  void answer(uint32_t request, uint64_t value, UniqueFd fd, MonotonicTime now);

  const uint64_t protocol_features_;
  Host* const host_;
  MessageRecorder* const recorder_;
  FeatureSet features_;
  absl::Status status_;

  std::vector<std::byte> in_;
  size_t in_head_ = 0;
  size_t in_tail_ = 0;
  uint64_t in_position_ = 0;
  std::deque<FdGroup> in_fds_;

  std::vector<std::byte> out_;
  size_t out_head_ = 0;
  std::deque<Answer> answers_;  // What out_ is made of.
  bool begun_ = false;          // The first byte of answers_.front() is out.
  int front_fd_ = -1;           // Of answers_.front(), for a Segment.
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_BACKEND_CHANNEL_H_
