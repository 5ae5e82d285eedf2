// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_PEER_WATCH_H_
#define BACKENDS_USER_PEER_WATCH_H_

#include <memory>
#include <string>

#include "vhostdev/event_loop.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_ops.h"

namespace vhost::user {

// Tells when something of the name of the socket at `path` comes into its
// folder, or becomes accessible there.  A hint: who comes may not listen yet.
// Null: there is no such folder, or it cannot be watched.
//
// `inotify` is made on first use and is for the caller to keep, for one watch
// at a time: closing it so soon after a watch takes the kernel 10 ms.
// Source: inotify(7).
std::unique_ptr<PeerWatch> watch_for_socket(EventLoop& loop,
                                            const std::string& path,
                                            std::shared_ptr<UniqueFd>& inotify,
                                            EventLoop::Callback appeared);

// Tells whenever somebody waits at `listener` to be accepted, those who came
// before included.  `listener` outlives the watch.
std::unique_ptr<PeerWatch> watch_listener(EventLoop& loop, FdRef listener,
                                          EventLoop::Callback appeared);

}  // namespace vhost::user

#endif  // BACKENDS_USER_PEER_WATCH_H_
