// SPDX-License-Identifier: Apache-2.0
//
// Messages about the state of the device, and the state on its way.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

constexpr uint64_t kRefused = 1;

std::vector<std::byte> body_of(uint64_t value) {
  const auto bytes = wire::bytes_of(value);
  return {bytes.begin(), bytes.end()};
}

// A channel of the model's own: its end, and the front-end's.
struct Ends {
  UniqueFd ours;
  UniqueFd theirs;
};

absl::StatusOr<Ends> make_channel(ModelStateChannel kind, bool saving) {
  std::array<int, 2> fds = {-1, -1};
  if (kind == ModelStateChannel::kSocket) {
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
      return errno_status(errno, "socketpair");
    }
    return Ends{UniqueFd(fds[0]), UniqueFd(fds[1])};
  }
  if (::pipe2(fds.data(), O_CLOEXEC) != 0) return errno_status(errno, "pipe2");
  Ends ends = {UniqueFd(fds[1]), UniqueFd(fds[0])};
  if (!saving) std::swap(ends.ours, ends.theirs);
  if (kind == ModelStateChannel::kFile) {
    ends.theirs = UniqueFd(::memfd_create("state", MFD_CLOEXEC));
  }
  return ends;
}

}  // namespace

ModelSession::Answer ModelSession::set_device_state_fd(ModelFrame& message) {
  const auto about = wire::read_prefix<wire::DeviceState>(message.payload);
  const ModelStateOptions& options = environment_->options.state;
  const char* wrong = nullptr;
  if (about->direction > 1 || about->phase != 0) wrong = "direction or phase";
  if (!suspended()) wrong = "rings are started";
  if (state_.has_value()) wrong = "a state is on its way";
  if (options.fault == ModelStateFault::kRefuses) wrong = "refused on purpose";
  if (wrong != nullptr) {
    ++environment_->counters.refused;
    environment_->tell(absl::StrCat("SET_DEVICE_STATE_FD: ", wrong));
    return body_of(wire::kStateNoFdFlag | kRefused);
  }
  const bool saving = about->direction == 0;
  Ends ends = {.ours = std::move(message.fds[0]), .theirs = {}};
  const bool own = options.channel != ModelStateChannel::kTheirs;
  if (own) {
    absl::StatusOr<Ends> made = make_channel(options.channel, saving);
    if (!made.ok()) return made.status();
    ends = *std::move(made);
    answer_fd_ = std::move(ends.theirs);
  }
  state_.emplace(saving, std::move(ends.ours), &options,
                 &environment_->state_report,
                 std::chrono::steady_clock::now() + options.delay);
  return body_of(own ? 0 : wire::kStateNoFdFlag);
}

ModelSession::Answer ModelSession::check_device_state(ModelFrame&) {
  ++environment_->state_report.checks;
  // The front-end closed its end before it asked: the end is there to be read.
  if (state_.has_value() && !state_->saving() && !state_->read_to_end()) {
    return absl::CancelledError("died of its state");
  }
  const bool whole = state_.has_value() && state_->whole();
  drop_state();
  if (whole) ++environment_->state_report.vouched;
  return body_of(whole ? 0 : kRefused);
}

// Whether the model is too busy with its state to look at a message.
bool ModelSession::busy_with_state() const {
  return environment_->options.state.blocks_socket && state_.has_value() &&
         !state_->over();
}

// Whether `message` is answered: not by one who never says what came of it.
bool ModelSession::is_ignored(const ModelFrame& message) const {
  return environment_->options.state.fault == ModelStateFault::kNeverChecks &&
         message.header.request == user::to_int(Request::kCheckDeviceState);
}

void ModelSession::note_interruption(const ModelFrame& message) {
  if (state_.has_value() &&
      message.header.request != user::to_int(Request::kCheckDeviceState)) {
    ++environment_->state_report.interrupted_by;
  }
}

absl::Status ModelSession::move_state(ModelTime now) {
  if (!state_.has_value() || state_->over()) return absl::OkStatus();
  const FdRef fd = state_->fd();
  const bool due = now >= state_->start();
  const bool lives = state_->progress(now);
  if (state_->over() || !lives) state_watched_ = false;
  if (!lives) return absl::CancelledError("died of its state");
  if (!due || state_->over()) return absl::OkStatus();
  if (!state_->waits()) {
    if (state_watched_) environment_->poller.remove(fd);
    state_watched_ = false;
  } else if (!state_watched_) {
    VHOST_RETURN_IF_ERROR(environment_->poller.add(fd, ModelWatch::kState));
    environment_->poller.change(fd, ModelWatch::kState, !state_->saving(),
                                state_->saving());
    state_watched_ = true;
  }
  return absl::OkStatus();
}

void ModelSession::drop_state() {
  if (state_.has_value() && state_watched_) {
    environment_->poller.remove(state_->fd());
  }
  state_watched_ = false;
  state_.reset();
}

}  // namespace vhost::testing
