// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/locked_memory.h"

#include <sys/resource.h>

namespace vhost::ctl {

void raise_locked_memory() {
  rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) == 0) return;
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  // What is too little then is said by the device's refusal.
  static_cast<void>(::setrlimit(RLIMIT_MEMLOCK, &limit));
}

}  // namespace vhost::ctl
