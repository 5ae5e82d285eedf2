// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/model_backend.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/fakes/model_poller.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

using std::chrono::nanoseconds;

constexpr uint32_t kMaxRings = 256;  // What the protocol can name.
constexpr uint32_t kMaxMemorySlots = 509;

// A polled ring is looked at all the time for so many rounds without a
// request, then only now and then.
constexpr uint32_t kBusyRounds = 4096;
constexpr nanoseconds kIdlePollInterval = std::chrono::microseconds(50);

absl::StatusOr<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path of ", path.size(), " bytes"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

// All but the mutex and the thread.
class ModelBackend::Core {
 public:
  Core(ModelDevice* device, ModelOptions options) {
    environment_.device = device;
    environment_.options = std::move(options);
    uint32_t& queues = environment_.options.queues;
    queues = std::clamp(queues, uint32_t{1}, kMaxRings);
    uint32_t& slots = environment_.options.memory_slots;
    slots = std::clamp(slots, uint32_t{1}, kMaxMemorySlots);
  }
  ~Core() {
    environment_.device->set_waker({});
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  absl::Status open();
  FdRef poll_fd() const { return environment_.poller.fd(); }

  absl::Status connect(UniqueFd socket);
  absl::Status listen(UniqueFd socket);
  absl::Status listen_on(const std::string& path);

  // How long nothing will happen without an event; at most `limit` (negative:
  // for ever).
  nanoseconds quiet_time(nanoseconds limit) const;
  void round();

  void hang_up();
  void config_changed();

  bool connected() const { return session_.has_value(); }
  bool over() const {
    if (environment_.stores.dead()) return true;
    return !session_.has_value() && !listener_.valid();
  }
  const std::optional<ModelSession>& session() const { return session_; }
  ModelEnvironment& environment() { return environment_; }

 private:
  void accept();
  void end_session();
  void wake() { signal_notifier(wake_); }

  ModelEnvironment environment_;
  UniqueFd wake_;  // Ends a wait: another thread changed something.
  UniqueFd listener_;
  std::string path_;  // Ours to remove.
  std::optional<ModelSession> session_;
  uint32_t idle_rounds_ = 0;
};

absl::Status ModelBackend::Core::open() {
  VHOST_RETURN_IF_ERROR(environment_.poller.open());
  wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return errno_status(errno, "eventfd");
  environment_.device->set_waker(
      [wake = FdRef(wake_)] { signal_notifier(wake); });
  return environment_.poller.add(wake_, ModelWatch::kWake);
}

absl::Status ModelBackend::Core::connect(UniqueFd socket) {
  end_session();
  session_.emplace(std::move(socket), &environment_);
  const absl::Status status = session_->open();
  if (!status.ok()) {
    session_.reset();
    return annotate(status, "connection");
  }
  ++environment_.counters.connections;
  // One front-end at a time: the others wait in the socket's queue.
  if (listener_.valid()) {
    environment_.poller.change(listener_, ModelWatch::kListener, false, false);
  }
  return absl::OkStatus();
}

void ModelBackend::Core::end_session() {
  session_.reset();
  if (listener_.valid()) {
    environment_.poller.change(listener_, ModelWatch::kListener, true, false);
  }
}

absl::Status ModelBackend::Core::listen(UniqueFd socket) {
  VHOST_RETURN_IF_ERROR(annotate(
      environment_.poller.add(socket, ModelWatch::kListener), "listening"));
  make_nonblocking(socket);
  listener_ = std::move(socket);
  return absl::OkStatus();
}

absl::Status ModelBackend::Core::listen_on(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = address_of(path);
  if (!address.ok()) return address.status();
  struct stat leftover;
  if (::lstat(path.c_str(), &leftover) == 0) {
    if (!S_ISSOCK(leftover.st_mode)) {
      return absl::AlreadyExistsError(
          absl::StrCat(path, ": there is something that is no socket"));
    }
    ::unlink(path.c_str());
  }
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return errno_status(errno, "socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address),
             sizeof(*address)) != 0) {
    return errno_status(errno, absl::StrCat("bind ", path));
  }
  path_ = path;
  if (::listen(socket.get(), SOMAXCONN) != 0) {
    return errno_status(errno, absl::StrCat("listen ", path));
  }
  return listen(std::move(socket));
}

void ModelBackend::Core::accept() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return;  // It went away again.
  const absl::Status status = connect(std::move(socket));
  if (!status.ok()) environment_.tell(std::string(status.message()));
}

nanoseconds ModelBackend::Core::quiet_time(nanoseconds limit) const {
  if (!session_.has_value()) return limit;
  const ModelTime now = std::chrono::steady_clock::now();
  nanoseconds quiet = limit;
  const auto at_most = [&quiet](nanoseconds time) {
    time = std::max(time, nanoseconds(0));
    if (quiet.count() < 0 || time < quiet) quiet = time;
  };
  if (const auto wake = session_->wake_at(now); wake.has_value()) {
    at_most(*wake - now);
  }
  if (session_->polls()) {
    at_most(idle_rounds_ < kBusyRounds ? nanoseconds(0) : kIdlePollInterval);
  }
  return quiet;
}

void ModelBackend::Core::round() {
  if (environment_.stores.dead()) return;
  bool knock = false;
  for (const ModelEvent& event : environment_.poller.ready()) {
    if (event.watch == ModelWatch::kListener) {
      knock = true;
    } else if (event.watch == ModelWatch::kWake) {
      read_notifier(wake_);
    } else if (session_.has_value()) {
      session_->on_event(event);
    }
  }
  if (knock && !session_.has_value()) accept();
  if (!session_.has_value()) return;
  const uint64_t before = environment_.counters.requests;
  const absl::Status status =
      session_->progress(std::chrono::steady_clock::now());
  idle_rounds_ =
      environment_.counters.requests != before ? 0 : idle_rounds_ + 1;
  if (status.ok()) return;
  end_session();
  if (!absl::IsUnavailable(status)) {
    environment_.tell(absl::StrCat("hung up: ", status.message()));
  }
}

void ModelBackend::Core::hang_up() {
  end_session();
  wake();
}

void ModelBackend::Core::config_changed() {
  if (!session_.has_value()) return;  // Whoever comes reads the new one.
  session_->config_changed();
  wake();
}

ModelBackend::ModelBackend(ModelDevice* device, ModelOptions options) {
  auto core = std::make_unique<Core>(device, std::move(options));
  setup_ = core->open();
  poll_fd_ = core->poll_fd().get();
  const absl::MutexLock lock(&mutex_);
  core_ = std::move(core);
}

ModelBackend::~ModelBackend() { stop_thread(); }

absl::Status ModelBackend::connect(UniqueFd socket) {
  VHOST_RETURN_IF_ERROR(setup_);
  const absl::MutexLock lock(&mutex_);
  return core_->connect(std::move(socket));
}

absl::Status ModelBackend::listen(UniqueFd socket) {
  VHOST_RETURN_IF_ERROR(setup_);
  const absl::MutexLock lock(&mutex_);
  return core_->listen(std::move(socket));
}

absl::Status ModelBackend::listen_on(const std::string& path) {
  VHOST_RETURN_IF_ERROR(setup_);
  const absl::MutexLock lock(&mutex_);
  return core_->listen_on(path);
}

absl::Status ModelBackend::step(nanoseconds timeout) {
  return step_until(timeout, FdRef());
}

absl::Status ModelBackend::step_until(nanoseconds timeout, FdRef stop) {
  VHOST_RETURN_IF_ERROR(setup_);
  nanoseconds quiet;
  {
    const absl::MutexLock lock(&mutex_);
    quiet = core_->quiet_time(timeout);
  }
  if (quiet.count() != 0) wait_readable(FdRef(poll_fd_), stop, quiet);
  const absl::MutexLock lock(&mutex_);
  core_->round();
  return absl::OkStatus();
}

absl::Status ModelBackend::run(FdRef stop) {
  while (!is_readable(stop)) {
    VHOST_RETURN_IF_ERROR(step_until(nanoseconds(-1), stop));
    const absl::MutexLock lock(&mutex_);
    if (core_->over()) break;
  }
  return absl::OkStatus();
}

absl::Status ModelBackend::start_thread() {
  VHOST_RETURN_IF_ERROR(setup_);
  if (thread_.joinable()) return absl::OkStatus();
  thread_stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!thread_stop_.valid()) return errno_status(errno, "eventfd");
  thread_ = std::thread([this] {
    while (!is_readable(thread_stop_)) {
      if (!step_until(nanoseconds(-1), thread_stop_).ok()) return;
    }
  });
  return absl::OkStatus();
}

void ModelBackend::stop_thread() {
  if (!thread_.joinable()) return;
  signal_notifier(thread_stop_);
  thread_.join();
}

void ModelBackend::hang_up() {
  const absl::MutexLock lock(&mutex_);
  core_->hang_up();
}

void ModelBackend::config_changed() {
  const absl::MutexLock lock(&mutex_);
  core_->config_changed();
}

void ModelBackend::set_latency(nanoseconds latency) {
  const absl::MutexLock lock(&mutex_);
  core_->environment().options.latency = latency;
}

bool ModelBackend::connected() const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected();
}

ModelRingState ModelBackend::ring(uint32_t index) const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected() ? core_->session()->ring(index) : ModelRingState();
}

ModelCounters ModelBackend::counters() const {
  const absl::MutexLock lock(&mutex_);
  return core_->environment().counters;
}

FeatureSet ModelBackend::accepted_features() const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected() ? core_->session()->accepted() : FeatureSet();
}

uint64_t ModelBackend::accepted_protocol_features() const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected() ? core_->session()->accepted_protocol() : 0;
}

uint8_t ModelBackend::device_status() const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected() ? core_->session()->status() : uint8_t{0};
}

size_t ModelBackend::memory_regions() const {
  const absl::MutexLock lock(&mutex_);
  return core_->connected() ? core_->session()->memory_regions() : 0;
}

ModelStateReport ModelBackend::state_report() const {
  const absl::MutexLock lock(&mutex_);
  return core_->environment().state_report;
}

std::string ModelBackend::trouble() const {
  const absl::MutexLock lock(&mutex_);
  return core_->environment().trouble;
}

}  // namespace vhost::testing
