// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_PEER_SOCKET_H_
#define TESTS_FAKES_PEER_SOCKET_H_

#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "vhostdev/testing/scripted_peer.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// recvmsg of up to `size` bytes onto the end of `in`, without waiting; new
// descriptors go to `fds`.  As recvmsg: bytes received, 0 at the end, -1 with
// errno.
ssize_t receive_some(int socket, size_t size, Bytes& in,
                     std::vector<UniqueFd>& fds);

// sendmsg of `bytes` with `fd_count` descriptors of /dev/null, without waiting.
// As sendmsg.
ssize_t send_piece(int socket, const Bytes& bytes, size_t fd_count);

}  // namespace vhost::testing

#endif  // TESTS_FAKES_PEER_SOCKET_H_
