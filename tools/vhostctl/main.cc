// SPDX-License-Identifier: Apache-2.0
//
// vhostctl: talks to vhost back-ends from the command line.

#include <csignal>
#include <span>
#include <variant>

#include "tools/vhostctl/cli.h"
#include "tools/vhostctl/commands.h"
#include "tools/vhostctl/output.h"

namespace vhost::ctl {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

absl::Status run(const Options& options) {
  switch (options.command) {
    case Command::kInfo:
      return run_info(options);
    case Command::kBlkId:
      return run_blk_id(options);
    case Command::kBlkRead:
      return run_blk_read(options);
    case Command::kBlkWrite:
      return run_blk_write(options);
    case Command::kBlkFlush:
      return run_blk_flush(options);
    case Command::kBlkVerify:
      return run_blk_verify(options);
    case Command::kBlkCheckFile:
      return run_blk_check_file(options);
    case Command::kFsInit:
      return run_fs_init(options);
    case Command::kFsCat:
      return run_fs_cat(options);
    case Command::kNetEcho:
      return run_net_echo(options);
    case Command::kVsockPing:
      return run_vsock_ping(options);
    case Command::kBenchStart:
      return run_bench_start(options);
    case Command::kRecord:
      return run_record(options);
    case Command::kDecode:
      return run_decode(options);
  }
  return absl::InternalError("a command without code");
}

int main_with(std::span<char* const> argv) {
  occupy_standard_descriptors();
  // Writing to a closed pipe is an error to report, not a way to die.
  std::signal(SIGPIPE, SIG_IGN);
  absl::StatusOr<std::variant<Options, HelpText>> parsed =
      parse_command_line(argv);
  if (!parsed.ok()) {
    print_error(parsed.status());
    return kWrongUsage;
  }
  const auto* help = std::get_if<HelpText>(&*parsed);
  const absl::Status status = help != nullptr ? print_text(help->text)
                                              : run(std::get<Options>(*parsed));
  if (status.ok()) return kDone;
  print_error(status);
  const auto* options = std::get_if<Options>(&*parsed);
  if (options != nullptr && options->verbose) print_flight_record(status);
  return kFailed;
}

}  // namespace
}  // namespace vhost::ctl

int main(int argc, char** argv) {
  return vhost::ctl::main_with(std::span(argv, static_cast<size_t>(argc)));
}
