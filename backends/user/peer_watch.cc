// SPDX-License-Identifier: Apache-2.0
#include "backends/user/peer_watch.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/string_view.h"

namespace vhost::user {
namespace {

// Calls back from a loop.  The callback may destroy the watch.
class Caller {
 public:
  explicit Caller(EventLoop::Callback appeared)
      : appeared_(std::make_shared<EventLoop::Callback>(std::move(appeared))) {}

  void call() const {
    const std::shared_ptr<EventLoop::Callback> kept = appeared_;
    (*kept)();
  }

 private:
  std::shared_ptr<EventLoop::Callback> appeared_;
};

class ListenerWatch final : public PeerWatch {
 public:
  ListenerWatch(EventLoop& loop, FdRef listener, EventLoop::Callback appeared)
      : caller_(std::move(appeared)),
        watch_(loop.watch(listener, {.readable = true},
                          [this](IoEvents) { caller_.call(); })) {}

  bool announces_all() const override { return true; }

 private:
  const Caller caller_;
  const std::unique_ptr<EventLoop::Watch> watch_;
};

class FolderWatch final : public PeerWatch {
 public:
  FolderWatch(EventLoop& loop, std::shared_ptr<UniqueFd> inotify, int folder,
              std::string name, EventLoop::Callback appeared)
      : inotify_(std::move(inotify)),
        folder_(folder),
        name_(std::move(name)),
        caller_(std::move(appeared)) {
    read_all();  // Of an earlier watch.
    watch_ = loop.watch(*inotify_, {.readable = true}, [this](IoEvents) {
      if (read_all()) caller_.call();
    });
  }
  ~FolderWatch() override {
    watch_.reset();
    ::inotify_rm_watch(inotify_->get(), folder_);
  }

  bool announces_all() const override { return false; }

 private:
  // Whether something that there is to read is of our name.
  bool read_all() const {
    bool ours = false;
    while (true) {
      alignas(inotify_event) std::array<char, 4096> buffer;
      const ssize_t size =
          ::read(inotify_->get(), buffer.data(), buffer.size());
      if (size <= 0) return ours;
      const absl::string_view events(buffer.data(), static_cast<size_t>(size));
      ours = names_us(events) || ours;
    }
  }

  bool names_us(absl::string_view events) const {
    while (events.size() >= sizeof(inotify_event)) {
      inotify_event head;
      std::memcpy(&head, events.data(), sizeof(head));
      events.remove_prefix(sizeof(head));
      const absl::string_view padded = events.substr(0, head.len);
      events.remove_prefix(padded.size());
      // Events that were dropped may have been ours.
      if ((head.mask & IN_Q_OVERFLOW) != 0) return true;
      if (padded.substr(0, padded.find('\0')) == name_) return true;
    }
    return false;
  }

  const std::shared_ptr<UniqueFd> inotify_;
  const int folder_;
  const std::string name_;
  const Caller caller_;
  std::unique_ptr<EventLoop::Watch> watch_;
};

}  // namespace

std::unique_ptr<PeerWatch> watch_for_socket(EventLoop& loop,
                                            const std::string& path,
                                            std::shared_ptr<UniqueFd>& inotify,
                                            EventLoop::Callback appeared) {
  const size_t slash = path.rfind('/');
  const bool bare = slash == std::string::npos;
  const std::string folder = bare ? "." : path.substr(0, slash + 1);
  std::string name = bare ? path : path.substr(slash + 1);
  if (name.empty()) return nullptr;
  if (inotify == nullptr) {
    UniqueFd made(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!made.valid()) return nullptr;
    inotify = std::make_shared<UniqueFd>(std::move(made));
  }
  constexpr uint32_t kComes = IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR;
  const int watched =
      ::inotify_add_watch(inotify->get(), folder.c_str(), kComes);
  if (watched < 0) return nullptr;
  return std::make_unique<FolderWatch>(loop, inotify, watched, std::move(name),
                                       std::move(appeared));
}

std::unique_ptr<PeerWatch> watch_listener(EventLoop& loop, FdRef listener,
                                          EventLoop::Callback appeared) {
  return std::make_unique<ListenerWatch>(loop, listener, std::move(appeared));
}

}  // namespace vhost::user
