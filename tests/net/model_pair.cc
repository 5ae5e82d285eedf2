// SPDX-License-Identifier: Apache-2.0
#include "tests/net/model_pair.h"

#include <sys/socket.h>

namespace vhost::testing {

VhostUserAddress ModelPair::connect(ModelBackend& backend) {
  std::array<int, 2> ends = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()),
            0);
  EXPECT_TRUE(backend.connect(UniqueFd(ends[0])).ok());
  EXPECT_TRUE(backend.start_thread().ok());
  return UseSocket{std::make_shared<UniqueFd>(ends[1])};
}

}  // namespace vhost::testing
