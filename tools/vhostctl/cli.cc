// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/cli.h"

#include <getopt.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/cli_commands.h"
#include "vhostdev/status.h"

namespace vhost::ctl {
namespace {

using Parsed = absl::StatusOr<std::variant<Options, HelpText>>;

constexpr int kHelp = 'h';
// What getopt_long returns for the i-th option of a command is kFirst + i.
constexpr int kFirst = 256;

absl::Status usage_error(absl::string_view what, absl::string_view words) {
  return absl::InvalidArgumentError(absl::StrCat(
      what, "; see: vhostctl ", words, words.empty() ? "" : " ", "--help"));
}

// The words in front of the first option, as far as a command begins with
// them; `used` counts them.
std::string command_words(std::span<char* const> args, size_t& used) {
  std::string words;
  used = 0;
  for (const char* arg : args) {
    const std::string longer =
        absl::StrCat(words, words.empty() ? "" : " ", arg);
    bool known = false;
    for (const CommandSpec& command : all_commands()) {
      known = known || begins_with(command, longer);
    }
    if (!known) break;
    words = longer;
    ++used;
  }
  return words;
}

const CommandSpec* find_command(absl::string_view words) {
  for (const CommandSpec& command : all_commands()) {
    if (command.words == words) return &command;
  }
  return nullptr;
}

absl::Status check_connection(const Options& options) {
  const int given =
      (options.socket.has_value() ? 1 : 0) +
      (options.listen.has_value() ? 1 : 0) + (options.fd.has_value() ? 1 : 0) +
      (options.vdpa.has_value() ? 1 : 0) + (options.kernel.has_value() ? 1 : 0);
  if (given == 1) return absl::OkStatus();
  const bool has_kernel = options.command == Command::kInfo;
  return absl::InvalidArgumentError(absl::StrCat(
      given == 0 ? "one of" : "only one of", " --socket, --fd, --listen",
      has_kernel ? ", --vdpa and --kernel" : " and --vdpa",
      given == 0 ? " is needed" : " can be used"));
}

// Two ends: of two back-ends, or of the kernel's and a tap.
absl::Status check_echo(const Options& options) {
  const bool user = options.socket.has_value() && !options.socket2.empty();
  const bool kernel = options.kernel.has_value() && !options.tap.empty();
  const bool any_user = options.socket.has_value() || !options.socket2.empty();
  const bool any_kernel = options.kernel.has_value() || !options.tap.empty();
  if ((user && !any_kernel) || (kernel && !any_user)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--socket and --socket2 are needed, or --kernel and --tap");
}

absl::Status check_ping(const Options& options) {
  if (options.socket.has_value() == options.kernel.has_value()) {
    return absl::InvalidArgumentError("one of --socket and --kernel is needed");
  }
  if (options.kernel.has_value() && options.cid == 0) {
    return absl::InvalidArgumentError("--kernel needs --cid");
  }
  if (options.socket.has_value() && !options.port.has_value()) {
    return absl::InvalidArgumentError("--socket needs --port");
  }
  return absl::OkStatus();
}

absl::Status check_record(const Options& options) {
  if (options.listen.has_value() && !options.connect.empty()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("--listen and --connect are needed");
}

absl::Status check(const Options& options) {
  if (options.command == Command::kNetEcho) return check_echo(options);
  if (options.command == Command::kVsockPing) return check_ping(options);
  if (options.command == Command::kRecord) return check_record(options);
  if (options.command == Command::kDecode) return absl::OkStatus();
  if (options.command != Command::kBlkCheckFile) {
    VHOST_RETURN_IF_ERROR(check_connection(options));
  }
  const bool copies = options.command == Command::kBlkRead ||
                      options.command == Command::kFsCat;
  if (copies && options.json && options.output == "-") {
    return absl::InvalidArgumentError("--json needs --output FILE");
  }
  if (options.command == Command::kFsCat && options.file.empty()) {
    return absl::InvalidArgumentError("--file is needed");
  }
  if (options.reconnect && !options.socket.has_value() &&
      !options.listen.has_value()) {
    return absl::InvalidArgumentError("--reconnect needs --socket or --listen");
  }
  if (options.reconnect_timeout.has_value() && !options.reconnect) {
    return absl::InvalidArgumentError("--reconnect-timeout needs --reconnect");
  }
  if (options.command == Command::kBenchStart && options.fd.has_value() &&
      options.repeat.value_or(1) > 1) {
    return absl::InvalidArgumentError("--fd can be used once: --repeat 1");
  }
  return absl::OkStatus();
}

// What getopt_long did not like; `last` is the argument it looked at.
std::string option_error(int got, absl::string_view last) {
  if (got == ':') return absl::StrCat("a value is missing after ", last);
  if (optopt >= kFirst) return absl::StrCat("no value is allowed: ", last);
  if (optopt == 0) return absl::StrCat("unknown option ", last);
  return absl::StrCat("unknown option -",
                      std::string(1, static_cast<char>(optopt)));
}

// The command's options in getopt_long's form.
std::vector<option> long_options(const CommandSpec& command) {
  std::vector<option> table;
  for (const OptionSpec* spec : command.options) {
    const int id = kFirst + static_cast<int>(table.size());
    table.push_back({spec->name,
                     spec->value == nullptr ? no_argument : required_argument,
                     nullptr, id});
  }
  table.push_back({"help", no_argument, nullptr, kHelp});
  table.push_back({nullptr, 0, nullptr, 0});
  return table;
}

// Parses what follows the command's words; args[0] is not looked at.
Parsed parse_options(const CommandSpec& command, std::vector<char*> args) {
  const std::vector<option> table = long_options(command);
  const int count = static_cast<int>(args.size());
  args.push_back(nullptr);
  Options out;
  out.command = command.command;
  optind = 0;  // Makes glibc begin anew.
  opterr = 0;
  int got = 0;
  while ((got = getopt_long(count, args.data(), ":h", table.data(), nullptr)) !=
         -1) {
    if (got == kHelp) return HelpText{help_text(command.words)};
    if (got < kFirst) {
      return usage_error(
          option_error(got, args[static_cast<size_t>(optind) - 1]),
          command.words);
    }
    const OptionSpec& spec =
        *command.options[static_cast<size_t>(got - kFirst)];
    const absl::Status set = spec.set(out, optarg == nullptr ? "" : optarg);
    if (!set.ok()) {
      return usage_error(absl::StrCat("--", spec.name, ": ", set.message()),
                         command.words);
    }
  }
  if (command.operand != nullptr) {
    if (optind >= count) {
      return usage_error(absl::StrCat(command.operand->value, " is missing"),
                         command.words);
    }
    const absl::Status set =
        command.operand->set(out, args[static_cast<size_t>(optind)]);
    if (!set.ok()) return usage_error(set.message(), command.words);
    ++optind;
  }
  if (optind < count) {
    return usage_error(absl::StrCat("unexpected argument \"",
                                    args[static_cast<size_t>(optind)], "\""),
                       command.words);
  }
  const absl::Status complete = check(out);
  if (!complete.ok()) return usage_error(complete.message(), command.words);
  return out;
}

}  // namespace

absl::StatusOr<std::variant<Options, HelpText>> parse_command_line(
    std::span<char* const> argv) {
  const std::span<char* const> args = argv.empty() ? argv : argv.subspan(1);
  size_t used = 0;
  const std::string words = command_words(args, used);
  if (const CommandSpec* command = find_command(words)) {
    std::vector<char*> rest(argv.begin() + static_cast<ptrdiff_t>(used),
                            argv.end());
    return parse_options(*command, std::move(rest));
  }
  if (used == args.size()) {
    return usage_error("a command is missing", words);
  }
  const absl::string_view next = args[used];
  if (next == "--help" || next == "-h") return HelpText{help_text(words)};
  return usage_error(absl::StrCat("unknown command or option \"", next, "\""),
                     words);
}

}  // namespace vhost::ctl
