// SPDX-License-Identifier: Apache-2.0
//
// vhost-model-blk: the model back-end as a block device and a program, by the
// conventions of vhost-user.rst, "Backend program conventions".

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "tools/model_blk/options.h"
#include "vhostdev/status.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"

namespace vhost::model_blk {
namespace {

using testing::ModelBackend;
using testing::ModelBlk;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

const char kCapabilities[] =
    "{\n"
    "  \"type\": \"block\",\n"
    "  \"features\": [\n"
    "    \"read-only\",\n"
    "    \"blk-file\"\n"
    "  ]\n"
    "}\n";

void complain(const std::string& what) {
  std::fprintf(stderr, "vhost-model-blk: %s\n", what.c_str());
}

// Readable as soon as the program is asked to end.
absl::StatusOr<UniqueFd> end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return errno_status(errno, "sigprocmask");
  }
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return errno_status(errno, "signalfd");
  return fd;
}

absl::StatusOr<std::unique_ptr<ModelBlk>> open_disk(const Options& options) {
  const testing::ModelBlkOptions disk = {
      .read_only = options.read_only,
      .queues = static_cast<uint16_t>(options.queues),
      .without = options.without_features};
  if (options.size.has_value()) return ModelBlk::on_memory(*options.size, disk);
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  UniqueFd file(::open(options.blk_file.c_str(), access | O_CLOEXEC));
  if (!file.valid()) {
    return errno_status(errno, absl::StrCat("open ", options.blk_file));
  }
  return ModelBlk::on_file(std::move(file), disk);
}

// The convention does not say whether the inherited socket listens.
absl::Status use_inherited(ModelBackend& backend, int number) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  if (::getsockopt(number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) {
    return errno_status(errno, absl::StrCat("--fd ", number));
  }
  ::fcntl(number, F_SETFD, FD_CLOEXEC);
  UniqueFd socket(number);
  return listens != 0 ? backend.listen(std::move(socket))
                      : backend.connect(std::move(socket));
}

// As the kernel would, at any moment.
void die() { ::kill(::getpid(), SIGKILL); }

// Stops or dies where `options` say so; everything else goes on.
void plan_end(const Options& options, testing::ModelOptions& model) {
  if (options.die_after_store != 0) {
    model.on_store = [left = options.die_after_store]() mutable {
      if (--left == 0) die();
      return true;
    };
  }
  model.on_message = [stop_at = options.stop_before_message,
                      left = options.die_before_message](
                         const testing::ModelMessage& message) mutable {
    if (message.number == stop_at) ::raise(SIGSTOP);
    if (left != 0 && --left == 0) die();
    return testing::ModelVerdict();
  };
  if (options.die_after_message != 0) {
    model.on_handled = [left = options.die_after_message](const auto&) mutable {
      if (--left == 0) die();
    };
  }
}

absl::Status serve(const Options& options) {
  const absl::StatusOr<UniqueFd> end = end_signals();
  if (!end.ok()) return end.status();
  const absl::StatusOr<std::unique_ptr<ModelBlk>> disk = open_disk(options);
  if (!disk.ok()) return disk.status();
  testing::ModelOptions model;
  model.queues = options.queues;
  model.without_features = options.without_features;
  model.without_protocol_features = options.without_protocol_features;
  model.latency = options.latency;
  model.newest_first = options.newest_first;
  model.fault = options.fault;
  model.fault_after = options.fault_after;
  model.on_trouble = complain;
  plan_end(options, model);
  ModelBackend backend(disk->get(), std::move(model));
  VHOST_RETURN_IF_ERROR(options.fd.has_value()
                            ? use_inherited(backend, *options.fd)
                            : backend.listen_on(options.socket_path));
  return backend.run(*end);
}

int run(int argc, char** argv) {
  const absl::StatusOr<Options> options = parse_options(argc, argv);
  if (!options.ok()) {
    complain(std::string(options.status().message()));
    return kExitUsage;
  }
  if (options->help || options->print_capabilities) {
    const char* text = options->help ? kHelp : kCapabilities;
    return std::fputs(text, stdout) < 0 || std::fflush(stdout) != 0
               ? kExitFailed
               : 0;
  }
  const absl::Status status = serve(*options);
  if (status.ok()) return 0;
  complain(std::string(status.message()));
  return kExitFailed;
}

}  // namespace
}  // namespace vhost::model_blk

int main(int argc, char** argv) { return vhost::model_blk::run(argc, argv); }
