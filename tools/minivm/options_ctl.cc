// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/options_ctl.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "tools/vhostctl/values.h"
#include "vhostdev/status.h"
#include "vhostdev/vring.h"

namespace vhost::minivm::options {
namespace {

using ctl::parse_bytes;
using ctl::parse_number;

constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();

// The commands that have an option, in words too.
enum class Needs : uint8_t { kNothing, kPause, kPauseOrMove, kMove };

bool has_option(Verb verb, Needs needs) {
  const bool move = verb == Verb::kMigrate || verb == Verb::kSave;
  switch (needs) {
    case Needs::kNothing:
      return true;
    case Needs::kPause:
      return verb == Verb::kPause;
    case Needs::kPauseOrMove:
      return verb == Verb::kPause || move;
    case Needs::kMove:
      return move;
  }
  return false;
}

const char* to_words(Needs needs) {
  switch (needs) {
    case Needs::kNothing:
      return "nothing";
    case Needs::kPause:
      return "pause";
    case Needs::kPauseOrMove:
      return "pause, migrate or save";
    case Needs::kMove:
      return "migrate or save";
  }
  return "";
}

struct CtlOption {
  absl::string_view name;
  bool has_value;
  Needs needs;
  absl::Status (*set)(CtlOptions& out, absl::string_view value);
};

template <bool Request::*kFlag>
absl::Status set_flag(CtlOptions& out, absl::string_view) {
  out.request.*kFlag = true;
  return absl::OkStatus();
}

template <bool CtlOptions::*kFlag>
absl::Status set_own_flag(CtlOptions& out, absl::string_view) {
  out.*kFlag = true;
  return absl::OkStatus();
}

constexpr std::array<CtlOption, 7> kOptions = {{
    {"--json", false, Needs::kNothing, set_own_flag<&CtlOptions::json>},
    {"--devices", false, Needs::kPause, set_flag<&Request::devices>},
    {"--no-drain", false, Needs::kPauseOrMove, set_flag<&Request::no_drain>},
    {"--compare", false, Needs::kMove, set_flag<&Request::compare>},
    {"--progress", false, Needs::kMove, set_own_flag<&CtlOptions::progress>},
    {"--bandwidth", true, Needs::kMove,
     [](CtlOptions& out, absl::string_view value) {
       return store(out.request.bandwidth, parse_bytes(value));
     }},
    {"--downtime", true, Needs::kMove,
     [](CtlOptions& out, absl::string_view value) {
       return store(out.request.downtime_ms,
                    parse_number(value, 1, kMostDowntimeMs));
     }},
}};

// The operands of a verb.
absl::Status set_operands(Request& request,
                          std::span<const absl::string_view> operands) {
  const auto expect = [&](size_t count, const char* what) {
    return operands.size() == count
               ? absl::OkStatus()
               : wrong(to_string(request.verb), ": ", what, " expected");
  };
  switch (request.verb) {
    case Verb::kAddMemory:
      VHOST_RETURN_IF_ERROR(expect(1, "SIZE is"));
      return store(request.size, parse_bytes(operands[0]));
    case Verb::kRemoveMemory:
      VHOST_RETURN_IF_ERROR(expect(1, "ID is"));
      return store(request.id, parse_number(operands[0], 0, kAny));
    case Verb::kMask:
    case Verb::kUnmask:
      VHOST_RETURN_IF_ERROR(expect(2, "DEVICE and QUEUE are"));
      request.device = std::string(operands[0]);
      return store(request.queue, parse_number(operands[1], 0, kMaxQueues - 1));
    case Verb::kMigrate:
      VHOST_RETURN_IF_ERROR(expect(1, "tcp:HOST:PORT or unix:PATH is"));
      request.to = std::string(operands[0]);
      return parse_channel(request.to).status();
    case Verb::kSave:
      VHOST_RETURN_IF_ERROR(expect(1, "FILE is"));
      return store_path(request.to, operands[0]);
    default:
      return expect(0, "no argument is");
  }
}

// Options and the words between them, in any order.
struct Split {
  struct Given {
    const CtlOption* option;
    absl::string_view value;
  };
  std::vector<Given> options;
  std::vector<absl::string_view> words;
};

absl::StatusOr<Split> split(std::span<char* const> args) {
  Split out;
  for (size_t i = 0; i < args.size(); ++i) {
    const absl::string_view arg = args[i];
    if (arg.empty() || arg[0] != '-') {
      out.words.push_back(arg);
      continue;
    }
    const size_t equals = arg.find('=');
    const absl::string_view name = arg.substr(0, equals);
    const auto* const found =
        std::find_if(kOptions.begin(), kOptions.end(),
                     [&](const CtlOption& one) { return one.name == name; });
    if (found == kOptions.end()) return wrong("unknown option ", arg);
    absl::string_view value;
    if (equals != absl::string_view::npos) {
      if (!found->has_value) return wrong(name, " has no value");
      value = arg.substr(equals + 1);
    } else if (found->has_value) {
      if (++i == args.size()) return wrong("a value is missing after ", name);
      value = args[i];
    }
    out.options.push_back({found, value});
  }
  return out;
}

}  // namespace

bool wants_help(std::span<char* const> args) {
  return std::any_of(args.begin(), args.end(), [](const char* arg) {
    return absl::string_view(arg) == "--help";
  });
}

absl::StatusOr<CtlOptions> parse_ctl(std::span<char* const> args) {
  const absl::StatusOr<Split> given = split(args);
  if (!given.ok()) return given.status();
  const std::vector<absl::string_view>& words = given->words;
  if (words.size() < 2) return wrong("PATH and a command are missing");
  CtlOptions out;
  VHOST_RETURN_IF_ERROR(store_path(out.socket, words[0]));
  const absl::StatusOr<Verb> verb = verb_of(words[1]);
  if (!verb.ok()) return verb.status();
  out.request.verb = *verb;
  VHOST_RETURN_IF_ERROR(set_operands(out.request, std::span(words).subspan(2)));
  for (const auto& [option, value] : given->options) {
    if (!has_option(*verb, option->needs)) {
      return wrong(option->name, " needs ", to_words(option->needs));
    }
    VHOST_RETURN_IF_ERROR(annotate(option->set(out, value), option->name));
  }
  if (out.request.no_drain && *verb == Verb::kPause && !out.request.devices) {
    return wrong("--no-drain needs --devices");
  }
  return out;
}

}  // namespace vhost::minivm::options
