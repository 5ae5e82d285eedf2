// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_CONTROL_H_
#define TOOLS_MINIVM_CONTROL_H_

#include <sys/types.h>

#include <list>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/minivm/request.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {

// Where `minivm ctl` connects to: a unix socket that takes requests and answers
// them in their order (request.h).  A client that sends what is none gets an
// error; one whose line is too long gets an error and is let go; one that does
// not read its answers is not asked for more.  Loop thread.
class ControlServer {
 public:
  using Answer = absl::AnyInvocable<void(absl::StatusOr<ctl::Json>)>;
  // Called for each request; `answer` is called once, then or later, or not at
  // all (the VM ends).
  using Handler = absl::AnyInvocable<void(const Request&, Answer answer)>;

  // A socket file that nobody listens at is replaced; the file is removed with
  // the server.
  // Errors: kAlreadyExists    somebody listens there, or it is no socket.
  //         kInvalidArgument  the path is too long.
  static absl::StatusOr<std::unique_ptr<ControlServer>> listen(
      EventLoop& loop, const std::string& path, Handler handler);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  class Client;

  ControlServer(EventLoop& loop, std::string path, UniqueFd socket,
                Handler handler);
  void watch();
  void accept();

  EventLoop& loop_;
  const std::string path_;
  ino_t inode_ = 0;  // Of the socket file.
  UniqueFd socket_;
  Handler handler_;
  std::list<std::shared_ptr<Client>> clients_;
  std::unique_ptr<EventLoop::Watch> watch_;
  std::unique_ptr<EventLoop::Timer> retry_;
};

// A socket that is connected to the server at `path`; blocking.
// Errors: kUnavailable      nobody listens there.
//         kInvalidArgument  the path is too long.
absl::StatusOr<UniqueFd> connect_control(const std::string& path);

// A request to it, and an answer from it without its end; blocking.
// Errors: kUnavailable  the VM ended.
//         kDataLoss     the answer is too long.
absl::Status send_line(FdRef socket, const std::string& line);
absl::StatusOr<std::string> receive_line(FdRef socket);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_CONTROL_H_
