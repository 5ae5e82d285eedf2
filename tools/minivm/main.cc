// SPDX-License-Identifier: Apache-2.0
//
// minivm: a small virtual machine over the library, whose guest verifies its
// disks and nets.

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tools/minivm/ctl.h"
#include "tools/minivm/main_loop.h"
#include "tools/minivm/options.h"
#include "tools/minivm/report.h"
#include "tools/minivm/vm.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

// Readable whenever the program is asked to end.
absl::StatusOr<UniqueFd> end_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // ORDER: before there are other threads, which inherit it.
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) {
    return errno_status(errno, "sigprocmask");
  }
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return errno_status(errno, "signalfd");
  return fd;
}

// What the guest did; JSON in one line, which is the last.
absl::Status print_report(const WorkloadReport& report, bool json) {
  if (!json) {
    VHOST_RETURN_IF_ERROR(ctl::print_text(report_text(report)));
  }
  return ctl::print_text(absl::StrCat(
      report_json(report).dump(-1, ' ', /*ensure_ascii=*/true,
                               ctl::Json::error_handler_t::replace),
      "\n"));
}

// Errors: kDataLoss  the guest found faults.
absl::Status run(const RunOptions& options) {
  const absl::StatusOr<UniqueFd> end = end_signals();
  if (!end.ok()) return end.status();
  const absl::StatusOr<std::unique_ptr<MainLoop>> main = MainLoop::create();
  if (!main.ok()) return main.status();
  EventLoop& loop = (*main)->loop();
  const absl::StatusOr<std::unique_ptr<Vm>> created = Vm::create(loop, options);
  if (!created.ok()) return created.status();
  Vm& vm = **created;
  const auto watch = loop.watch(FdRef(*end), {.readable = true}, [&](IoEvents) {
    signalfd_siginfo info;
    while (::read(end->get(), &info, sizeof(info)) == sizeof(info)) {
      vm.finish();
    }
  });
  if (!vm.incoming_address().empty()) {
    const std::string where =
        absl::StrCat("minivm: incoming: ", vm.incoming_address(), "\n");
    // There is nobody to tell that standard error is closed.
    ctl::write_full(FdRef(STDERR_FILENO), std::as_bytes(std::span(where)))
        .IgnoreError();
  }
  bool over = false;
  vm.start([&over] { over = true; });
  while (!over) VHOST_RETURN_IF_ERROR((*main)->turn());
  vm.close();
  const WorkloadReport report = vm.report();
  VHOST_RETURN_IF_ERROR(print_report(report, options.json));
  const uint64_t faults = report.total_faults();
  if (faults == 0) return absl::OkStatus();
  const std::string& what =
      report.failure.empty() ? report.first_fault : report.failure;
  return absl::DataLossError(absl::StrCat(faults, " faults: ", what));
}

int main_with(std::span<char* const> argv) {
  ctl::occupy_standard_descriptors();
  // Writing to a closed pipe is an error to report, not a way to die.
  ::signal(SIGPIPE, SIG_IGN);
  const absl::StatusOr<CommandLine> parsed = parse_command_line(argv);
  if (!parsed.ok()) {
    ctl::print_error(parsed.status(), "minivm");
    return kWrongUsage;
  }
  absl::Status status;
  if (const auto* help = std::get_if<HelpText>(&*parsed)) {
    status = ctl::print_text(help->text);
  } else if (const auto* ask = std::get_if<CtlOptions>(&*parsed)) {
    status = run_ctl(*ask);
  } else {
    status = run(std::get<RunOptions>(*parsed));
  }
  if (status.ok()) return kDone;
  ctl::print_error(status, "minivm");
  return kFailed;
}

}  // namespace
}  // namespace vhost::minivm

int main(int argc, char** argv) {
  return vhost::minivm::main_with(std::span(argv, static_cast<size_t>(argc)));
}
