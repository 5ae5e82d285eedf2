// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_CLI_COMMANDS_H_
#define TOOLS_VHOSTCTL_CLI_COMMANDS_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "tools/vhostctl/cli.h"

namespace vhost::ctl {

struct OptionSpec {
  const char* name;   // Without the dashes.
  const char* value;  // What its value is called; null: it takes none.
  const char* help;
  absl::Status (*set)(Options& out, absl::string_view value);
};

struct CommandSpec {
  Command command;
  const char* words;  // "blk read"
  const char* summary;
  std::vector<const OptionSpec*> options;
  // An argument that is no option, and needed; null: it takes none.
  const OptionSpec* operand = nullptr;
};

// All commands, in the order of the help.
std::span<const CommandSpec> all_commands();

// What `--help` prints for the commands that begin with `words`; all of them
// if that is empty.
std::string help_text(absl::string_view words);

// Whether `command` is `words` or a member of the group `words`.
bool begins_with(const CommandSpec& command, absl::string_view words);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_CLI_COMMANDS_H_
