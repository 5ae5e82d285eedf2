// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_VSOCK_STREAMS_H_
#define HW_DRIVER_VSOCK_STREAMS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/vsock_client.h"
#include "vhostdev/vsock_packet.h"

namespace vhost {

// The streams of a guest, without its queues: packets in, packets out.
// Whatever packets come, memory is bounded and every one of them is taken by a
// stream, answered or counted.
// Source: VIRTIO 1.3, "Socket Device", "Device Operation".
class VsockStreams {
 public:
  // Answers to packets that wait to be sent, at most: no packet is taken
  // meanwhile.
  static constexpr size_t kMostAnswers = 64;
  // Bytes of credit that are made use of, at most.
  static constexpr uint32_t kMostCredit = 0x7fffffff;

  // `first_port`: where the search for a free one begins, any number.  Another
  // one for each guest of a host: it may still speak to the streams of the one
  // before.
  explicit VsockStreams(const VsockClient::Options& options,
                        uint32_t first_port = 0);

  uint64_t guest_cid() const { return guest_cid_; }
  uint64_t stray() const { return stray_; }

  // -- Packets ----------------------------------------------------------------

  // What the user asked for does not count: a device may take nothing before
  // it has buffers to answer in.
  bool may_take() const { return provoked_ < kMostAnswers; }
  // A packet came; `payload` are its header.length bytes.
  void take(const VsockHeader& header, std::span<const std::byte> payload);
  // What is to be sent next, before any data; its length is 0.
  std::optional<VsockHeader> next_answer();
  bool has_answers() const { return !answers_.empty(); }

  // How many of `wanted` bytes may be sent now: as many as the peer takes,
  // which is asked for room where it has none.  0 while an answer waits.
  // Errors: as VsockClient::send.
  absl::StatusOr<uint32_t> begin_data(VsockStream id, uint32_t wanted);
  // The header of a packet with `length` bytes, which begin_data allowed.
  VsockHeader data(VsockStream id, uint32_t length);

  // -- As in VsockClient ------------------------------------------------------

  absl::StatusOr<VsockStream> connect(const VsockAddress& peer,
                                      uint32_t local_port);
  absl::Status listen(uint32_t port);
  void stop_listening(uint32_t port);
  std::optional<VsockStream> accept(uint32_t port);
  absl::StatusOr<size_t> receive(VsockStream id, std::span<std::byte> out);
  absl::Status shutdown(VsockStream id, uint32_t flags);
  void close(VsockStream id);
  std::optional<VsockStreamInfo> info(VsockStream id) const;

  // Closes all streams with `why`; nothing is sent.
  void close_all(const absl::Status& why);
  void transport_reset(uint64_t guest_cid);

 private:
  struct Stream {
    VsockAddress local;
    VsockAddress peer;
    VsockState state = VsockState::kConnecting;
    absl::Status status;
    // What came and was not read: from `read_at` on.
    std::vector<std::byte> received;
    size_t read_at = 0;
    uint32_t forwarded = 0;       // Read by us, since the beginning.
    uint32_t forwarded_told = 0;  // The peer knows of.
    uint32_t sent = 0;            // Bytes, since the beginning.
    uint32_t peer_forwarded = 0;
    uint32_t peer_buffer = 0;
    uint32_t local_shutdown = 0;
    uint32_t peer_shutdown = 0;
    bool credit_asked = false;
    // They wait to be sent: another one would tell nothing else.
    bool request_waits = false;
    bool update_waits = false;

    size_t readable() const { return received.size() - read_at; }
  };
  using Key = std::pair<VsockAddress, VsockAddress>;  // Local, peer.
  // What goes out; of a stream with its counts at that moment.
  struct Answer {
    Key key;
    VsockOp op;
    uint32_t flags;
    uint16_t type;
    bool provoked;  // By a packet.
  };

  // What the user may have asked for and is not sent: there is room for each
  // stream's REQUEST and RST.  Streams that were made add a few more.
  size_t most_asked() const { return size_t{options_.max_streams} * 2; }
  Stream* find(VsockStream id);
  const Stream* find(VsockStream id) const;
  std::optional<VsockStream> add(const Key& key, VsockState state);
  uint32_t free_port(const VsockAddress& peer);
  // For the user.
  void ask(const Stream& stream, VsockOp op, uint32_t flags = 0);
  // To a packet.
  void answer(const Stream& stream, VsockOp op);
  void answer_stray(const VsockHeader& header);
  // Leaves what came to be read.
  void end(Stream& stream, const absl::Status& why);
  void fail(Stream& stream, absl::string_view why);

  void take_request(const VsockHeader& header);
  bool take_credit(Stream& stream, const VsockHeader& header);
  void take_connecting(Stream& stream, const VsockHeader& header);
  void take_open(Stream& stream, const VsockHeader& header,
                 std::span<const std::byte> payload);
  void take_data(Stream& stream, std::span<const std::byte> payload);
  void take_shutdown(Stream& stream, uint32_t flags);
  void fill_counts(Stream& stream, VsockHeader& header);
  static uint32_t credit_of(const Stream& stream);

  const VsockClient::Options options_;
  uint64_t guest_cid_;
  uint64_t stray_ = 0;
  uint64_t next_id_ = 1;  // Does not wrap in a lifetime.
  uint32_t next_port_;
  std::map<VsockStream, Stream> streams_;
  std::map<Key, VsockStream> by_key_;  // Those that are not closed.
  std::map<uint32_t, std::deque<VsockStream>> listening_;
  std::deque<Answer> answers_;
  size_t provoked_ = 0;  // Of them.
};

}  // namespace vhost

#endif  // HW_DRIVER_VSOCK_STREAMS_H_
