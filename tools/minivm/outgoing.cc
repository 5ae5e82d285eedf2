// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/outgoing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/migration_report.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr Duration kConnectTimeout = std::chrono::seconds(10);

// Under this name until it is whole.
std::string part_of(const std::string& path) {
  return absl::StrCat(path, ".part");
}

MigrationSource::Options options_of(const Request& request) {
  MigrationSource::Options out;
  out.bandwidth = request.bandwidth;
  if (request.downtime_ms != 0) {
    out.downtime = std::chrono::milliseconds(request.downtime_ms);
  }
  out.compare_ram = request.compare;
  return out;
}

// What became of the guest, for whoever reads the error.
absl::string_view whereabouts(MigrationOutcome outcome) {
  switch (outcome) {
    case MigrationOutcome::kStuck:
      return "the guest is here, paused: take-over tries to start it again";
    case MigrationOutcome::kUnknown:
      return "the guest may run at the destination, and is paused here: "
             "take-over says that it does not";
    default:
      return "the guest goes on here";
  }
}

}  // namespace

Outgoing::Outgoing(VhostContext& context, VmMigration::Parts parts,
                   absl::AnyInvocable<void()> over)
    : context_(context), parts_(parts), over_(std::move(over)) {}

Outgoing::~Outgoing() {
  if (file_.valid()) ::unlink(part_of(request_.to).c_str());
}

Completion Outgoing::then(void (Outgoing::*step)(const absl::Status&)) {
  return [weak = std::weak_ptr(self_), step](const absl::Status& status) {
    if (const auto self = weak.lock()) ((**self).*step)(status);
  };
}

bool Outgoing::has_guest() const {
  const MigrationOutcome now = outcome();
  return now == MigrationOutcome::kNone || now == MigrationOutcome::kNotMoved;
}

MigrationOutcome Outgoing::outcome() const {
  if (busy_ || source_ == nullptr) return MigrationOutcome::kNone;
  return source_->progress().outcome;
}

bool Outgoing::takes_memory() const {
  return !busy_ || source_ == nullptr ||
         source_->progress().phase <= MigrationPhase::kPrecopy;
}

ctl::Json Outgoing::json() const {
  if (source_ != nullptr) return migration_json(source_->progress());
  if (!busy_ && failure_.ok()) return nullptr;
  MigrationProgress progress;
  progress.phase = busy_ ? MigrationPhase::kConnect : MigrationPhase::kOver;
  progress.status = failure_;
  if (!busy_) progress.outcome = MigrationOutcome::kNotMoved;
  return migration_json(progress);
}

void Outgoing::begin(const Request& request, ControlServer::Answer answer) {
  if (busy_) {
    return answer(absl::FailedPreconditionError(
        absl::StrCat(to_string(request.verb), ": a migration is under way")));
  }
  busy_ = true;
  request_ = request;
  answer_ = std::move(answer);
  failure_ = absl::OkStatus();
  source_ = nullptr;
  vmm_.emplace(parts_, request.no_drain);
  if (request.verb == Verb::kMigrate) {
    const absl::StatusOr<ChannelAddress> to = parse_channel(request.to);
    if (!to.ok()) return finish(to.status());
    connector_ = std::make_unique<ChannelConnector>(
        context_.loop(), *to, kConnectTimeout,
        [this](absl::StatusOr<UniqueFd> channel) {
          connected(std::move(channel));
        });
    return;
  }
  const absl::Status opened = open_file();
  if (!opened.ok()) return finish(opened);
  UniqueFd file(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
  if (!file.valid()) return finish(errno_status(errno, "fcntl"));
  source_ = std::make_unique<MigrationSource>(context_.loop(), context_, *vmm_,
                                              options_of(request));
  source_->save(std::move(file), then(&Outgoing::moved));
}

// [start]
void Outgoing::connected(absl::StatusOr<UniqueFd> channel) {
  if (!channel.ok()) return finish(channel.status());
  source_ = std::make_unique<MigrationSource>(context_.loop(), context_, *vmm_,
                                              options_of(request_));
  source_->start(*std::move(channel), then(&Outgoing::moved));
}
// [end]

absl::Status Outgoing::open_file() {
  const std::string path = part_of(request_.to);
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
                       S_IRUSR | S_IWUSR));
  if (!file.valid()) return errno_status(errno, path);
  file_ = std::move(file);
  return absl::OkStatus();
}

// Nobody finds a file of that name that is not whole.
absl::Status Outgoing::keep_file() {
  if (::fsync(file_.get()) != 0) return errno_status(errno, "fsync");
  if (::rename(part_of(request_.to).c_str(), request_.to.c_str()) != 0) {
    return errno_status(errno, absl::StrCat("rename to ", request_.to));
  }
  file_.reset();
  return absl::OkStatus();
}

void Outgoing::moved(const absl::Status& status) {
  if (!file_.valid()) return finish(status);
  const absl::Status kept = status.ok() ? keep_file() : status;
  if (!kept.ok()) {
    ::unlink(part_of(request_.to).c_str());
    file_.reset();
  }
  if (kept.ok() || !status.ok()) return finish(kept);
  // The guest is in no file after all.
  failure_ = kept;
  source_->take_back(then(&Outgoing::finish));
}

// ORDER: what others do about it comes last, for it may destroy this.
void Outgoing::finish(const absl::Status& status) {
  busy_ = false;
  connector_ = nullptr;
  if (failure_.ok()) failure_ = status;
  ControlServer::Answer answer = std::exchange(answer_, nullptr);
  if (failure_.ok()) {
    answer(json());
  } else {
    answer(absl::Status(
        failure_.code(),
        absl::StrCat(to_string(request_.verb), ": ", failure_.message(), " (",
                     whereabouts(outcome()), ")")));
  }
  over_();
}

absl::Status Outgoing::cancel() {
  if (!busy_) {
    return absl::FailedPreconditionError("cancel: no migration is under way");
  }
  if (source_ != nullptr) return annotate(source_->cancel(), "cancel");
  finish(absl::CancelledError("cancelled"));
  return absl::OkStatus();
}

void Outgoing::take_back(Completion done) {
  if (busy_ || source_ == nullptr) {
    return done(absl::FailedPreconditionError(
        busy_ ? "take-over: a migration is under way"
              : "take-over: the guest was never given away"));
  }
  busy_ = true;
  source_->take_back([weak = std::weak_ptr(self_), done = std::move(done)](
                         const absl::Status& status) mutable {
    const auto self = weak.lock();
    if (self == nullptr) return;
    (*self)->busy_ = false;
    done(annotate(status, "take-over"));
    (*self)->over_();
  });
}

}  // namespace vhost::minivm
