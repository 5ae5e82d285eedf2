// SPDX-License-Identifier: Apache-2.0
#include "hw/host/state_stream.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace vhost {

bool would_block(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

bool is_ready(FdRef fd, short poll_events) {
  pollfd one = {fd.get(), poll_events, 0};
  return ::poll(&one, 1, 0) == 1;
}

StateStream::StateStream(EventLoop& loop, FdRef fd)
    : loop_(loop), fd_(fd), kind_([fd] {
        struct stat info;
        if (::fstat(fd.get(), &info) != 0) return Kind::kFile;
        if (S_ISSOCK(info.st_mode)) return Kind::kSocket;
        return S_ISFIFO(info.st_mode) ? Kind::kPipe : Kind::kFile;
      }()) {}

void StateStream::when_ready(IoEvents wanted,
                             absl::AnyInvocable<void()> ready) {
  watch_.reset();
  token_.reset();
  ready_ = std::move(ready);
  if (ready_ == nullptr) return;
  if (kind_ != Kind::kFile) {
    watch_ = loop_.watch(fd_, wanted, [this](IoEvents) { call(); });
    return;
  }
  token_ = std::make_shared<StateStream*>(this);
  loop_.post([weak = std::weak_ptr<StateStream*>(token_)] {
    if (const auto self = weak.lock()) (*self)->call();
  });
}

void StateStream::call() {
  absl::AnyInvocable<void()> ready = std::exchange(ready_, nullptr);
  watch_.reset();
  token_.reset();
  // ORDER: last: it may destroy this.
  if (ready) ready();
}

ssize_t StateStream::write(std::span<const std::byte> bytes,
                           bool more_follows) const {
  if (!is_socket()) return ::write(fd_.get(), bytes.data(), bytes.size());
  return ::send(fd_.get(), bytes.data(), bytes.size(),
                MSG_DONTWAIT | MSG_NOSIGNAL | (more_follows ? MSG_MORE : 0));
}

ssize_t StateStream::read(std::span<std::byte> bytes) const {
  if (!is_socket()) return ::read(fd_.get(), bytes.data(), bytes.size());
  return ::recv(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
}

}  // namespace vhost
