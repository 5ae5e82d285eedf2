// SPDX-License-Identifier: Apache-2.0
#include "tools/model_blk/options.h"

#include <getopt.h>

#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::model_blk {
namespace {

constexpr uint32_t kMaxQueues = 256;
constexpr unsigned kProtocolBits = 64;
constexpr uint32_t kMaxLatencyMs = 3600 * 1000;

enum Option : int {
  kOptSocketPath = 1,
  kOptFd,
  kOptPrintCapabilities,
  kOptBlkFile,
  kOptSize,
  kOptReadOnly,
  kOptQueues,
  kOptWithout,
  kOptLatency,
  kOptNewestFirst,
  kOptFault,
  kOptStopBeforeMessage,
  kOptDieAfterStore,
  kOptDieBeforeMessage,
  kOptDieAfterMessage,
  kOptHelp,
};

const option kLongOptions[] = {
    {"socket-path", required_argument, nullptr, kOptSocketPath},
    {"fd", required_argument, nullptr, kOptFd},
    {"print-capabilities", no_argument, nullptr, kOptPrintCapabilities},
    {"blk-file", required_argument, nullptr, kOptBlkFile},
    {"size", required_argument, nullptr, kOptSize},
    {"read-only", no_argument, nullptr, kOptReadOnly},
    {"queues", required_argument, nullptr, kOptQueues},
    {"without", required_argument, nullptr, kOptWithout},
    {"latency-ms", required_argument, nullptr, kOptLatency},
    {"newest-first", no_argument, nullptr, kOptNewestFirst},
    {"fault", required_argument, nullptr, kOptFault},
    {"stop-before-message", required_argument, nullptr, kOptStopBeforeMessage},
    {"die-after-store", required_argument, nullptr, kOptDieAfterStore},
    {"die-before-message", required_argument, nullptr, kOptDieBeforeMessage},
    {"die-after-message", required_argument, nullptr, kOptDieAfterMessage},
    {"help", no_argument, nullptr, kOptHelp},
    {},
};

template <typename T>
absl::StatusOr<T> parse_number(absl::string_view name, const char* text,
                               T least, T most) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < static_cast<uint64_t>(least) ||
      value > static_cast<uint64_t>(most)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " ", text, ": not a number from ", least, " to ", most));
  }
  return static_cast<T>(value);
}

// "MQ" is a feature of the device and one of the protocol: both go.
absl::Status hide(absl::string_view name, Options& options) {
  bool found = false;
  for (unsigned bit = 0; bit < FeatureSet::kBits; ++bit) {
    if (feature_name(kDeviceIdBlock, bit) != name) continue;
    options.without_features.set(bit);
    found = true;
  }
  for (unsigned bit = 0; bit < kProtocolBits; ++bit) {
    if (protocol_feature_name(bit) != name) continue;
    options.without_protocol_features |= uint64_t{1} << bit;
    found = true;
  }
  if (found) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--without ", name, ": there is no such feature"));
}

// "used-id" or "used-id@100".
absl::Status parse_fault(absl::string_view text, Options& options) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('@', 1));
  const std::optional<testing::ModelFault> fault =
      testing::model_fault(parts.first);
  if (!fault.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--fault ", text, ": there is no such fault"));
  }
  options.fault = *fault;
  options.fault_after = 0;
  const bool counted = text.size() != parts.first.size();
  if (counted && !absl::SimpleAtoi(parts.second, &options.fault_after)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--fault ", text, ": not a number of requests"));
  }
  return absl::OkStatus();
}

absl::Status parse_numeric(int what, const char* text, Options& options) {
  constexpr auto kMaxSize =
      static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (what == kOptFd) {
    const auto fd =
        parse_number("--fd", text, 0, std::numeric_limits<int>::max());
    if (!fd.ok()) return fd.status();
    options.fd = *fd;
  } else if (what == kOptSize) {
    const auto size = parse_number("--size", text, uint64_t{512}, kMaxSize);
    if (!size.ok()) return size.status();
    options.size = *size;
  } else if (what == kOptQueues) {
    const auto queues = parse_number("--queues", text, 1u, kMaxQueues);
    if (!queues.ok()) return queues.status();
    options.queues = *queues;
  } else if (what == kOptStopBeforeMessage) {
    const auto number =
        parse_number("--stop-before-message", text, uint64_t{0}, kMaxSize);
    if (!number.ok()) return number.status();
    options.stop_before_message = *number;
  } else {
    const auto ms = parse_number("--latency-ms", text, 0u, kMaxLatencyMs);
    if (!ms.ok()) return ms.status();
    options.latency = std::chrono::milliseconds(*ms);
  }
  return absl::OkStatus();
}

absl::Status parse_death(absl::string_view name, const char* text,
                         uint64_t& when) {
  const auto number = parse_number(name, text, uint64_t{1},
                                   std::numeric_limits<uint64_t>::max());
  if (!number.ok()) return number.status();
  when = *number;
  return absl::OkStatus();
}

absl::Status parse_one(int what, const char* text, Options& options) {
  switch (what) {
    case kOptSocketPath:
      options.socket_path = text;
      break;
    case kOptBlkFile:
      options.blk_file = text;
      break;
    case kOptReadOnly:
      options.read_only = true;
      break;
    case kOptNewestFirst:
      options.newest_first = true;
      break;
    case kOptFault:
      return parse_fault(text, options);
    case kOptDieAfterStore:
      return parse_death("--die-after-store", text, options.die_after_store);
    case kOptDieBeforeMessage:
      return parse_death("--die-before-message", text,
                         options.die_before_message);
    case kOptDieAfterMessage:
      return parse_death("--die-after-message", text,
                         options.die_after_message);
    case kOptWithout:
      for (absl::string_view name :
           absl::StrSplit(text, ',', absl::SkipEmpty())) {
        VHOST_RETURN_IF_ERROR(hide(name, options));
      }
      break;
    default:
      return parse_numeric(what, text, options);
  }
  return absl::OkStatus();
}

absl::Status check(const Options& options) {
  if (options.socket_path.empty() == !options.fd.has_value()) {
    return absl::InvalidArgumentError(
        "exactly one of --socket-path and --fd is needed");
  }
  if (options.blk_file.empty() == !options.size.has_value()) {
    return absl::InvalidArgumentError(
        "exactly one of --blk-file and --size is needed");
  }
  return absl::OkStatus();
}

}  // namespace

const char kHelp[] =
    "vhost-model-blk (--socket-path=PATH | --fd=N) "
    "(--blk-file=FILE | --size=BYTES) [OPTION...]\n"
    "\n"
    "A vhost-user block device written from the specification.\n"
    "\n"
    "  --socket-path=PATH     listens on a socket at PATH\n"
    "  --fd=N                 uses the listening or connected socket N\n"
    "  --print-capabilities   says in JSON what this program can do\n"
    "  --blk-file=FILE        the disk is FILE, a file or block device\n"
    "  --size=BYTES           the disk is memory\n"
    "  --read-only            the disk cannot be written\n"
    "  --queues=N             1 to 256 queues (default: 4)\n"
    "  --without=NAME,...     does not offer these features, spelled as in\n"
    "                         the specifications: EVENT_IDX, REPLY_ACK\n"
    "  --latency-ms=N         completes each request N ms after it came\n"
    "  --newest-first         completes the newer half of what is due first\n"
    "  --fault=LIE[@N]        lies about one request of each queue, after N\n"
    "                         that it did not lie about: used-index (it moves\n"
    "                         too far), used-id (no such descriptor),\n"
    "                         used-twice (of no request), length (too long)\n"
    "  --stop-before-message=N\n"
    "                         stops itself (SIGSTOP) when message N, from 0, "
    "of\n"
    "                         a connection came\n"
    "  --die-after-store=N    is killed after its Nth store to used rings and\n"
    "                         inflight area\n"
    "  --die-before-message=N\n"
    "                         is killed when its Nth message came\n"
    "  --die-after-message=N  is killed when it answered its Nth message, of "
    "its\n"
    "                         life as in the two before\n"
    "\n"
    "Serves one front-end after another until SIGTERM.\n";

absl::StatusOr<Options> parse_options(int argc, char** argv) {
  Options options;
  absl::Status first_error;
  ::opterr = 0;
  ::optind = 0;  // GNU: starts anew.
  for (;;) {
    const int what = ::getopt_long(argc, argv, "", kLongOptions, nullptr);
    if (what == -1) break;
    if (what == kOptPrintCapabilities) options.print_capabilities = true;
    if (what == kOptHelp) options.help = true;
    if (what == kOptPrintCapabilities || what == kOptHelp) continue;
    const absl::Status status =
        what == '?' ? absl::InvalidArgumentError(absl::StrCat(
                          argv[::optind - 1], ": unknown, or lacks a value"))
                    : parse_one(what, ::optarg, options);
    first_error.Update(status);
  }
  // By convention nothing else counts then.
  if (options.help || options.print_capabilities) return options;
  if (::optind < argc) {
    first_error.Update(absl::InvalidArgumentError(
        absl::StrCat(argv[::optind], ": unexpected")));
  }
  first_error.Update(check(options));
  if (!first_error.ok()) return first_error;
  return options;
}

}  // namespace vhost::model_blk
