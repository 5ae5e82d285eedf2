// SPDX-License-Identifier: Apache-2.0

#include <poll.h>
#include <sys/signalfd.h>

#include <csignal>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/user/socket_io.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/record_session.h"
#include "tools/vhostctl/recording_file.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

constexpr int kForEver = -1;
constexpr int kRetryAfterMs = 1;
// A listener whose backlog is full is asked again so often.
constexpr int kConnectTries = 1000;

// Readable once the user wants an end.
absl::StatusOr<UniqueFd> end_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return errno_status(errno, "sigprocmask");
  }
  UniqueFd out(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!out.valid()) return errno_status(errno, "signalfd");
  return out;
}

class Recorder {
 public:
  Recorder(std::string back_end, RecordingFile file, user::Listener listener,
           UniqueFd signals)
      : back_end_(std::move(back_end)),
        file_(std::move(file)),
        listener_(std::move(listener)),
        signals_(std::move(signals)) {}

  // One connection after another, until a signal.
  absl::Status run() {
    while (!stop_ && file_.status().ok()) {
      wait({{listener_.fd().get(), POLLIN, 0}}, kForEver);
      if (stop_) break;
      absl::StatusOr<std::optional<UniqueFd>> front = listener_.accept();
      if (!front.ok()) return front.status();
      if (front->has_value()) serve(**std::move(front));
    }
    return annotate(file_.status(), "recording");
  }

 private:
  void serve(UniqueFd front) {
    ++connections_;
    absl::StatusOr<UniqueFd> back = connect();
    if (!back.ok()) {
      Event event;
      event.kind = EventKind::kEnd;
      event.connection = connections_;
      event.text = std::string(back.status().message());
      file_.add(std::move(event));
      print_error(back.status());
      return;
    }
    RecordSession session(&file_, connections_, std::move(front),
                          *std::move(back));
    session.end(relay(session));
  }

  // Why the connection ended.
  std::string relay(RecordSession& session) {
    while (true) {
      const std::string over = session.move();
      if (!over.empty()) return over;
      if (stop_) return "the recorder was stopped";
      if (!file_.status().ok()) return "the recording cannot be written";
      std::vector<pollfd> interests;
      session.add_interests(interests);
      wait(std::move(interests),
           session.must_retry() ? kRetryAfterMs : kForEver);
    }
  }

  absl::StatusOr<UniqueFd> connect() {
    for (int i = 0; i < kConnectTries && !stop_; ++i) {
      absl::StatusOr<std::optional<UniqueFd>> back =
          user::connect_to(back_end_);
      if (!back.ok()) return back.status();
      if (back->has_value()) return **std::move(back);
      wait({}, kRetryAfterMs);
    }
    return absl::UnavailableError(
        absl::StrCat("connect to ", back_end_, ": its backlog stays full"));
  }

  // For `interests` or a signal.
  void wait(std::vector<pollfd> interests, int timeout_ms) {
    interests.push_back({signals_.get(), POLLIN, 0});
    const int ready = ::poll(interests.data(), interests.size(), timeout_ms);
    if (ready > 0 && interests.back().revents != 0) stop_ = true;
  }

  const std::string back_end_;
  RecordingFile file_;
  user::Listener listener_;
  UniqueFd signals_;
  uint32_t connections_ = 0;
  bool stop_ = false;
};

}  // namespace

absl::Status run_record(const Options& options) {
  absl::StatusOr<UniqueFd> signals = end_signals();
  if (!signals.ok()) return signals.status();
  // ORDER: before the file is made anew: another recorder may be writing it.
  absl::StatusOr<user::Listener> listener =
      user::Listener::listen_on(*options.listen);
  if (!listener.ok()) return listener.status();
  absl::StatusOr<RecordingFile> file = RecordingFile::create(options.output);
  if (!file.ok()) return file.status();
  if (options.output != "-") {
    VHOST_RETURN_IF_ERROR(print_text(
        absl::StrCat("recording what passes from ", printable(*options.listen),
                     " to ", printable(options.connect), "\n")));
  }
  return Recorder(options.connect, *std::move(file), *std::move(listener),
                  *std::move(signals))
      .run();
}

}  // namespace vhost::ctl
