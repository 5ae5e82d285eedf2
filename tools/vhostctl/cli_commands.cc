// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/cli_commands.h"

#include <algorithm>
#include <array>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vhostctl/values.h"
#include "vhostdev/features.h"
#include "vhostdev/status.h"
#include "vhostdev/vring.h"
#include "vhostdev/vsock_packet.h"

namespace vhost::ctl {
namespace {

// Source: linux/if.h, IFNAMSIZ.
constexpr size_t kMostInterfaceName = 15;

// Stores what was parsed, converted to the type of the field.
template <typename Field, typename T>
absl::Status store(Field& field, const absl::StatusOr<T>& value) {
  if (value.ok()) field = static_cast<Field>(*value);
  return value.status();
}

template <typename Field, typename T>
absl::Status store(std::optional<Field>& field,
                   const absl::StatusOr<T>& value) {
  if (value.ok()) field = static_cast<Field>(*value);
  return value.status();
}

absl::Status store_path(std::string& field, absl::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError("the path is empty");
  field = std::string(path);
  return absl::OkStatus();
}

absl::Status set_device(Options& out, absl::string_view name) {
  struct Device {
    const char* name;
    uint32_t id;
  };
  constexpr std::array<Device, 7> kDevices = {{{"blk", kDeviceIdBlock},
                                               {"net", kDeviceIdNet},
                                               {"fs", kDeviceIdFs},
                                               {"scsi", kDeviceIdScsi},
                                               {"vsock", kDeviceIdVsock},
                                               {"gpu", kDeviceIdGpu},
                                               {"crypto", kDeviceIdCrypto}}};
  for (const Device& device : kDevices) {
    if (name == device.name) {
      out.device_id = device.id;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", name, "\" is not one of blk, net, fs, scsi, vsock, gpu, crypto"));
}

constexpr OptionSpec kSocket = {"socket", "PATH",
                                "connect to the back-end that listens there",
                                [](Options& out, absl::string_view text) {
                                  return store_path(out.socket.emplace(), text);
                                }};
constexpr OptionSpec kFd = {
    "fd", "N", "the back-end is at the other end of this open socket",
    [](Options& out, absl::string_view text) {
      return store(out.fd, parse_number(text, 0, 0x7fffffff));
    }};
constexpr OptionSpec kListen = {
    "listen", "PATH", "listen there and take the first back-end that connects",
    [](Options& out, absl::string_view text) {
      return store_path(out.listen.emplace(), text);
    }};
constexpr OptionSpec kVdpa = {"vdpa", "PATH",
                              "the vhost-vdpa device /dev/vhost-vdpa-N",
                              [](Options& out, absl::string_view text) {
                                return store_path(out.vdpa.emplace(), text);
                              }};
constexpr OptionSpec kTimeout = {
    "timeout", "SECONDS", "how long any answer may take (default: 5)",
    [](Options& out, absl::string_view text) {
      return store(out.timeout, parse_seconds(text));
    }};
constexpr OptionSpec kJson = {"json", nullptr,
                              "print one JSON document instead of text",
                              [](Options& out, absl::string_view) {
                                out.json = true;
                                return absl::OkStatus();
                              }};
constexpr OptionSpec kJsonLines = {"json", nullptr,
                                   "decode: print a JSON document in each line",
                                   [](Options& out, absl::string_view) {
                                     out.json = true;
                                     return absl::OkStatus();
                                   }};
constexpr OptionSpec kDevice = {
    "device", "TYPE",
    "blk, net, fs, scsi, vsock, gpu or crypto (default: a guess)", set_device};
constexpr OptionSpec kVerbose = {
    "verbose", nullptr,
    "on failure also print what is known of the device and its last messages",
    [](Options& out, absl::string_view) {
      out.verbose = true;
      return absl::OkStatus();
    }};
constexpr OptionSpec kRecordListen = {
    "listen", "PATH", "record: listen there for front-ends (needed)",
    [](Options& out, absl::string_view text) {
      return store_path(out.listen.emplace(), text);
    }};
constexpr OptionSpec kConnect = {"connect", "PATH",
                                 "record: where the back-end listens (needed)",
                                 [](Options& out, absl::string_view text) {
                                   return store_path(out.connect, text);
                                 }};
constexpr OptionSpec kRecording = {"recording", "FILE|-", "a file of record",
                                   [](Options& out, absl::string_view text) {
                                     return store_path(out.input, text);
                                   }};
constexpr OptionSpec kOffset = {"offset", "BYTES",
                                "where on the disk to begin (default: 0)",
                                [](Options& out, absl::string_view text) {
                                  return store(out.offset, parse_bytes(text));
                                }};
constexpr OptionSpec kLength = {"length", "BYTES",
                                "how much (default: to the end)",
                                [](Options& out, absl::string_view text) {
                                  return store(out.length, parse_bytes(text));
                                }};
constexpr OptionSpec kInput = {"input", "FILE|-",
                               "read from FILE (default: standard input)",
                               [](Options& out, absl::string_view text) {
                                 return store_path(out.input, text);
                               }};
constexpr OptionSpec kOutput = {"output", "FILE|-",
                                "write to FILE (default: standard output)",
                                [](Options& out, absl::string_view text) {
                                  return store_path(out.output, text);
                                }};
constexpr OptionSpec kFile = {"file", "PATH",
                              "a file of the device, from its root (needed)",
                              [](Options& out, absl::string_view text) {
                                return store_path(out.file, text);
                              }};
constexpr OptionSpec kSocket2 = {"socket2", "PATH",
                                 "the same for the second port",
                                 [](Options& out, absl::string_view text) {
                                   return store_path(out.socket2, text);
                                 }};
constexpr OptionSpec kFrames = {
    "frames", "N", "send that many frames (default: 1000)",
    [](Options& out, absl::string_view text) {
      return store(out.frames, parse_number(text, 1, 100'000'000));
    }};
constexpr OptionSpec kKernel = {
    "kernel", "PATH", "the kernel's device instead: /dev/vhost-net and others",
    [](Options& out, absl::string_view text) {
      return store_path(out.kernel.emplace(), text);
    }};
constexpr OptionSpec kTap = {
    "tap", "NAME", "with --kernel: the tap interface, which is made if need be",
    [](Options& out, absl::string_view text) {
      if (text.size() > kMostInterfaceName) {
        return absl::InvalidArgumentError(
            absl::StrCat("a name has at most ", kMostInterfaceName, " bytes"));
      }
      return store_path(out.tap, text);
    }};
constexpr OptionSpec kCid = {
    "cid", "N",
    "the guest's context id, from 3 (--kernel needs it; --socket: the "
    "back-end's)",
    [](Options& out, absl::string_view text) {
      return store(out.cid,
                   parse_number(text, kVsockFirstGuestCid, kVsockLastGuestCid));
    }};
constexpr OptionSpec kPort = {
    "port", "P", "the host's port; --socket needs it; --kernel: a free one",
    [](Options& out, absl::string_view text) {
      return store(out.port, parse_number(text, 1, 0xfffffffe));
    }};
constexpr OptionSpec kCount = {
    "count", "N", "send that many pings (default: 10)",
    [](Options& out, absl::string_view text) {
      return store(out.count, parse_number(text, 1, 10'000'000));
    }};
constexpr OptionSpec kQueues = {
    "queues", "N", "use that many virtqueues (default: 1)",
    [](Options& out, absl::string_view text) {
      return store(out.queues, parse_number(text, 1, kMaxQueues));
    }};
constexpr OptionSpec kDepth = {
    "depth", "D", "requests in flight per virtqueue (default: 32)",
    [](Options& out, absl::string_view text) {
      return store(out.depth, parse_number(text, 1, 1024));
    }};
constexpr OptionSpec kSize = {
    "size", "BYTES", "only this much, from the beginning (default: all)",
    [](Options& out, absl::string_view text) {
      return store(out.size, parse_bytes(text));
    }};
constexpr OptionSpec kSeed = {
    "seed", "S", "what makes the pattern different (default: random)",
    [](Options& out, absl::string_view text) {
      return store(out.seed,
                   parse_number(text, 0, std::numeric_limits<uint64_t>::max()));
    }};
constexpr OptionSpec kSeconds = {
    "seconds", "S", "repeat for this long (default: one pass)",
    [](Options& out, absl::string_view text) {
      return store(out.seconds, parse_seconds(text));
    }};
constexpr OptionSpec kReconnect = {
    "reconnect", nullptr,
    "go on when the back-end dies; writes at random, which a journal checks "
    "at the end, or after SIGINT",
    [](Options& out, absl::string_view) {
      out.reconnect = true;
      return absl::OkStatus();
    }};
constexpr OptionSpec kReconnectTimeout = {
    "reconnect-timeout", "SECONDS",
    "with --reconnect: give up after so long without one (default: never)",
    [](Options& out, absl::string_view text) {
      return store(out.reconnect_timeout, parse_seconds(text));
    }};
constexpr OptionSpec kRepeat = {
    "repeat", "R", "connect, start and stop this often (default: 10)",
    [](Options& out, absl::string_view text) {
      return store(out.repeat, parse_number(text, 1, 100000));
    }};

std::vector<CommandSpec> make_commands() {
  const auto connected = [](std::vector<const OptionSpec*> own) {
    own.insert(own.begin(), {&kSocket, &kFd, &kListen, &kVdpa});
    own.insert(own.end(), {&kTimeout, &kJson, &kVerbose});
    return own;
  };
  return {
      {Command::kInfo, "info", "what a back-end offers",
       connected({&kKernel, &kDevice})},
      {Command::kBlkId, "blk id", "the disk's identifier", connected({})},
      {Command::kBlkRead, "blk read", "copies from the disk",
       connected({&kOffset, &kLength, &kOutput, &kQueues, &kDepth})},
      {Command::kBlkWrite, "blk write", "copies to the disk and flushes it",
       connected({&kOffset, &kLength, &kInput, &kQueues, &kDepth})},
      {Command::kBlkFlush, "blk flush", "makes what was written durable",
       connected({})},
      {Command::kBlkVerify, "blk verify",
       "writes a pattern, flushes, reads it back and compares (destroys data)",
       connected({&kSize, &kQueues, &kDepth, &kSeed, &kSeconds, &kReconnect,
                  &kReconnectTimeout})},
      {Command::kBlkCheckFile,
       "blk check-file",
       "looks for the pattern of blk verify in a file",
       {&kInput, &kSeed, &kJson}},
      {Command::kFsInit, "fs init", "what a file system device agrees on",
       connected({})},
      {Command::kFsCat, "fs cat", "copies a file from a file system device",
       connected({&kFile, &kOutput})},
      {Command::kNetEcho,
       "net echo",
       "sends frames into one port, expects each at the other and back",
       {&kSocket, &kSocket2, &kKernel, &kTap, &kFrames, &kTimeout, &kJson,
        &kVerbose}},
      {Command::kVsockPing,
       "vsock ping",
       "connects to the host and measures how long bytes are under way",
       {&kSocket, &kKernel, &kCid, &kPort, &kCount, &kTimeout, &kJson,
        &kVerbose}},
      {Command::kBenchStart, "bench start",
       "what connecting, starting and stopping cost",
       connected({&kQueues, &kRepeat})},
      {Command::kRecord,
       "record",
       "sits between front-ends and a back-end and records all messages, until "
       "SIGINT",
       {&kRecordListen, &kConnect, &kOutput}},
      {Command::kDecode,
       "decode",
       "prints what record recorded, a line for each message",
       {&kJsonLines},
       &kRecording},
  };
}

// How a command says what it is connected to.
std::string connection_of(const CommandSpec& command) {
  switch (command.command) {
    case Command::kInfo:
      return " (--socket PATH | --fd N | --listen PATH | --vdpa PATH |"
             " --kernel PATH)";
    case Command::kNetEcho:
      return " (--socket PATH --socket2 PATH | --kernel PATH --tap NAME)";
    case Command::kVsockPing:
      return " (--socket PATH | --kernel PATH)";
    case Command::kBlkCheckFile:
      return "";
    case Command::kRecord:
      return " --listen PATH --connect PATH";
    case Command::kDecode:
      return " FILE|-";
    default:
      return " (--socket PATH | --fd N | --listen PATH | --vdpa PATH)";
  }
}

std::string synopsis(const CommandSpec& command) {
  constexpr std::array<const OptionSpec*, 9> kConnections = {
      &kSocket, &kSocket2, &kFd,           &kListen, &kVdpa,
      &kKernel, &kTap,     &kRecordListen, &kConnect};
  std::string out =
      absl::StrCat("vhostctl ", command.words, connection_of(command));
  for (const OptionSpec* option : command.options) {
    if (std::find(kConnections.begin(), kConnections.end(), option) !=
        kConnections.end()) {
      continue;
    }
    absl::StrAppend(&out, " [--", option->name,
                    option->value == nullptr ? "" : " ",
                    option->value == nullptr ? "" : option->value, "]");
  }
  return out;
}

}  // namespace

std::span<const CommandSpec> all_commands() {
  static const std::vector<CommandSpec>* const kCommands =
      new std::vector<CommandSpec>(make_commands());
  return *kCommands;
}

bool begins_with(const CommandSpec& command, absl::string_view words) {
  return words.empty() || command.words == words ||
         absl::StartsWith(command.words, absl::StrCat(words, " "));
}

std::string help_text(absl::string_view words) {
  std::string out = "usage:\n";
  std::vector<const OptionSpec*> options;
  for (const CommandSpec& command : all_commands()) {
    if (!begins_with(command, words)) continue;
    absl::StrAppend(&out, "  ", synopsis(command), "\n      ", command.summary,
                    "\n");
    for (const OptionSpec* option : command.options) {
      if (std::find(options.begin(), options.end(), option) == options.end()) {
        options.push_back(option);
      }
    }
  }
  absl::StrAppend(&out, "options:\n");
  for (const OptionSpec* option : options) {
    absl::StrAppendFormat(
        &out, "  --%-27s%s\n",
        absl::StrCat(option->name, option->value == nullptr ? "" : " ",
                     option->value == nullptr ? "" : option->value),
        option->help);
  }
  absl::StrAppendFormat(&out, "  --%-27s%s\n", "help", "this text");
  absl::StrAppend(&out,
                  "BYTES may end in K, M, G or T.  Exit status: 0 done, "
                  "1 failed, 2 wrong usage.\n");
  return out;
}

}  // namespace vhost::ctl
