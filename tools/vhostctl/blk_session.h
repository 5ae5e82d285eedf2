// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_BLK_SESSION_H_
#define TOOLS_VHOSTCTL_BLK_SESSION_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/outages.h"
#include "tools/vhostctl/session.h"
#include "vhostdev/blk_client.h"

namespace vhost::ctl {

// A disk that is up and running: connected, negotiated, its queues started.
class BlkSession {
 public:
  // Uses --queues and --depth; with --reconnect the disk stays over deaths of
  // the back-end, and its first start is tried for --timeout.
  // Errors: kInvalidArgument  the device has fewer queues.
  static absl::StatusOr<std::unique_ptr<BlkSession>> open(
      const Options& options);

  // Closes the connection and waits for nobody.
  ~BlkSession() = default;

  // Stops the device in order, unless it is lost, and returns `result`, or what
  // went wrong with the stop if that was OK; with --reconnect a back-end that
  // dies in the stop is no error.  Last.
  absl::Status close(const absl::Status& result);

  // Makes what was written durable; nothing may be in flight.
  // Errors: kUnimplemented  the device has no cache to flush, or does not say.
  absl::Status flush();

  BlkClient& client() { return *client_; }
  const BlkConfig& config() const { return client_->config(); }
  DmaMemory& memory() { return session_->memory(); }
  VirtioDriver& driver() { return driver_; }
  const Outages& outages() const { return outages_; }

  // Requests in flight at most, on all queues.
  uint32_t window() const { return window_; }

  // Bytes a request may have at most: all requests in flight have their own
  // buffer, and what a device takes in one piece is limited.
  uint64_t request_size() const;

 private:
  BlkSession(std::unique_ptr<Session> session, std::unique_ptr<VhostOps> ops,
             const Options& options);
  absl::Status start(const Options& options);
  absl::Status start_once(const Options& options);

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<Session> session_;
  Outages outages_;
  VirtioDriver driver_;
  std::unique_ptr<BlkClient> client_;
  uint32_t window_;
  Duration timeout_;
  bool reconnect_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_BLK_SESSION_H_
