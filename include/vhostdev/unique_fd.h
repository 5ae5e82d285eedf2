// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_UNIQUE_FD_H_
#define VHOSTDEV_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

#include "vhostdev/cxx20.h"

namespace vhost {

// Sole owner of one open file descriptor.  `UniqueFd` by value in a signature
// means "ownership moves here"; `FdRef` means "borrowed".  There is no
// operator bool: descriptor 0 is as good as any other.
class [[nodiscard]] UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    UniqueFd(std::move(other)).swap(*this);  // Safe for self-move.
    return *this;
  }
  ~UniqueFd() {
    if (fd_ >= 0) ::close(fd_);  // Never retried: Linux frees the number first.
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset() { UniqueFd().swap(*this); }
  void swap(UniqueFd& other) noexcept { std::swap(fd_, other.fd_); }

 private:
  int fd_ = -1;
};

// A descriptor owned by somebody else.  In a parameter list it is valid until
// the call returns; inside a verb (vhost_ops.h) until the verb's completion ran
// or its Pending was destroyed, whichever comes first.
class FdRef {
 public:
  FdRef() = default;
  FdRef(const UniqueFd& fd) : fd_(fd.get()) {}  // NOLINT: implicit by design.
  explicit FdRef(int fd) : fd_(fd) {}

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  friend bool operator==(FdRef, FdRef) = default;

 private:
  int fd_ = -1;
};

}  // namespace vhost

#endif  // VHOSTDEV_UNIQUE_FD_H_
