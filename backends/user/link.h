// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_LINK_H_
#define BACKENDS_USER_LINK_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/backend_channel.h"
#include "backends/user/connection.h"
#include "backends/user/socket_io.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/vhost_user.h"

namespace vhost::user {

// The sockets of one connection and the engines behind them: moves bytes
// between the two without ever blocking.  Both channels are served together, so
// that a back-end that waits for us on one is not waited for on the other.
class Link {
 public:
  class Client {
   public:
    virtual ~Client() = default;
    // A back-end is there; requests may be sent.
    virtual void on_up() = 0;
    virtual void on_reply(Connection::Reply reply) = 0;
    // The connection is over (told once for each start).  close() was done.
    virtual void on_down(const absl::Status& why) = 0;
  };

  // What to wait for before service() is worth calling again.
  struct Interest {
    FdRef fd;
    IoEvents events;
    bool is_channel = false;
  };

  // The last `recorded` messages of a connection are kept.
  Link(VhostUserAddress address, const Connection::Options& options,
       size_t recorded, Client* client)
      : address_(std::move(address)),
        options_(options),
        client_(client),
        recorder_(recorded) {}

  // Begins to connect, or to listen.  OK: on_up() or on_down() follows, later
  // and from service().
  // Errors: as connect_to, adopt_socket and Listener::listen_on.
  absl::Status start(MonotonicTime now);

  // Neither closed nor broken.
  bool started() const { return phase_ != Phase::kDown; }

  // Only while up: between on_up() and on_down().
  Connection& connection() { return *connection_; }

  // Makes the back-end's own channel; the end returned is the back-end's.
  absl::StatusOr<UniqueFd> open_channel(uint64_t protocol_features,
                                        BackendChannel::Host* host);
  BackendChannel* channel() { return channel_.get(); }

  // Sends what can be sent.  Calls nobody.
  void flush(MonotonicTime now);

  // Which channels to look at.
  struct Ready {
    bool main = true;
    bool channel = true;
  };
  // Sends and receives all that is possible now.
  void service(Ready ready, MonotonicTime now);

  using Interests = absl::InlinedVector<Interest, 2>;
  Interests interests() const;
  // When service() must be called even if nothing is ready.
  std::optional<MonotonicTime> wake_at() const;

  // Ends the connection.  Its sockets and engines are set aside until reap(),
  // so that whoever watches or runs them can stop first.  on_down() is not
  // called.
  void close();
  void reap();

  // VhostOps::watch_for_peer.
  std::unique_ptr<PeerWatch> watch_for_peer(EventLoop& loop,
                                            EventLoop::Callback appeared);

  // As counted over all connections.
  BackendCounters counters() const;
  std::vector<std::string> recent() const;
  std::vector<RequestStats> request_stats() const;

 private:
  enum class Phase : uint8_t { kDown, kConnecting, kAccepting, kUp };

  void try_connect(MonotonicTime now);
  void try_accept(MonotonicTime now);
  void come_up(UniqueFd socket, MonotonicTime now);
  void go_down(const absl::Status& why);
  void receive_main(MonotonicTime now);
  bool deliver_replies(MonotonicTime now);
  void receive_channel(MonotonicTime now);
  void send_channel();
  void close_channel(const absl::Status& why);

  const VhostUserAddress address_;
  const Connection::Options options_;
  Client* const client_;
  MessageRecorder recorder_;  // Outlives the engines below.

  Phase phase_ = Phase::kDown;
  // Counts starts and ends, so that a loop notices when a callback of its own
  // ended the connection it works on.
  uint64_t generation_ = 0;
  Listener listener_;
  std::optional<UniqueFd> ready_;  // Connected; on_up() is due.
  UniqueFd socket_;
  std::unique_ptr<Connection> connection_;
  absl::Status send_error_;
  bool socket_full_ = false;
  // After a failure that no descriptor becoming ready will end.
  std::optional<MonotonicTime> retry_at_;

  UniqueFd channel_socket_;
  std::unique_ptr<BackendChannel> channel_;
  bool channel_full_ = false;

  std::vector<UniqueFd> old_sockets_;
  std::vector<std::unique_ptr<Connection>> old_connections_;
  std::vector<std::unique_ptr<BackendChannel>> old_channels_;
  BackendCounters past_counters_;
  std::shared_ptr<UniqueFd> inotify_;  // Of watch_for_peer(), once used.
  std::string channel_end_;  // Why the back-end's channel ended, if it did.
};

}  // namespace vhost::user

#endif  // BACKENDS_USER_LINK_H_
