// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_FS_CONNECTION_H_
#define TOOLS_VHOSTCTL_FS_CONNECTION_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/vhostctl/session.h"
#include "vhostdev/fs_client.h"

namespace vhost::ctl {

// A file system that is up and running: connected, negotiated, its queues
// started, FUSE_INIT answered.
class FsConnection {
 public:
  static absl::StatusOr<std::unique_ptr<FsConnection>> open(
      const Options& options);

  // Closes the connection and waits for nobody.
  ~FsConnection() = default;

  // Stops the device in order, unless it is lost, and returns `result`, or what
  // went wrong with the stop if that was OK.  Last.
  absl::Status close(const absl::Status& result);

  FsClient& client() { return *client_; }
  DmaMemory& memory() { return session_->memory(); }
  VirtioDriver& driver() { return driver_; }

 private:
  FsConnection(std::unique_ptr<Session> session, std::unique_ptr<VhostOps> ops,
               const Options& options);
  absl::Status start();

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<Session> session_;
  VirtioDriver driver_;
  std::unique_ptr<FsClient> client_;
  Duration timeout_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_FS_CONNECTION_H_
