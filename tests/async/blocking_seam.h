// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_ASYNC_BLOCKING_SEAM_H_
#define TESTS_ASYNC_BLOCKING_SEAM_H_

#include <string>
#include <vector>

namespace vhost::async {

// While one exists on a thread, no call of that thread may wait: the functions
// of the C library that can are defined in this program (blocking_seam.cc),
// write down those that might have, and then do what they always do.
//
// A lock may be taken.  Files that are open may be read and written; at an
// offset, and be given room, only if they are in memory.  None may be opened.
class NoWaiting {
 public:
  NoWaiting();
  ~NoWaiting();
  NoWaiting(const NoWaiting&) = delete;
  NoWaiting& operator=(const NoWaiting&) = delete;

  // The calls of this thread that might have waited, with where they came from;
  // clears them.
  static std::vector<std::string> take_calls();
};

}  // namespace vhost::async

#endif  // TESTS_ASYNC_BLOCKING_SEAM_H_
