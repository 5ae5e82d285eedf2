// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_CLI_H_
#define TOOLS_VHOSTCTL_CLI_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"

namespace vhost::ctl {

enum class Command : uint8_t {
  kInfo,
  kBlkId,
  kBlkRead,
  kBlkWrite,
  kBlkFlush,
  kBlkVerify,
  kBlkCheckFile,
  kFsInit,
  kFsCat,
  kNetEcho,
  kVsockPing,
  kBenchStart,
  kRecord,
  kDecode,
};

// What the command line says.  Options that a command does not have keep their
// defaults.
struct Options {
  Command command = Command::kInfo;

  // Exactly one is set, except for kBlkCheckFile, kNetEcho, kRecord and
  // kDecode.
  std::optional<std::string> socket;
  std::optional<std::string> listen;
  std::optional<int> fd;
  std::optional<std::string> vdpa;
  std::optional<std::string> kernel;  // info, net echo, vsock ping: a device.

  Duration timeout = std::chrono::seconds(5);
  bool json = false;
  bool verbose = false;  // The flight record of a failure, too.

  std::string connect;     // record: where the back-end listens.
  std::string socket2;     // net echo: the second port.
  std::string tap;         // net echo: the interface of --kernel's other end.
  uint64_t frames = 1000;  // net echo.

  // vsock ping.
  uint64_t cid = 0;  // 0: as the back-end says.
  std::optional<uint32_t> port;
  uint32_t count = 10;

  std::optional<uint32_t> device_id;  // info: empty: to be guessed.

  uint64_t offset = 0;             // Bytes.
  std::optional<uint64_t> length;  // Bytes; empty: all there is.
  std::string input = "-";         // A file; "-": standard input.
  std::string output = "-";        // A file; "-": standard output.
  std::string file;                // fs cat: a path on the device.
  uint32_t queues = 1;
  uint32_t depth = 32;  // Requests in flight per queue.

  std::optional<uint64_t> size;     // verify: bytes from 0; empty: the disk.
  std::optional<uint64_t> seed;     // Empty: a random one.
  std::optional<Duration> seconds;  // verify: empty: one pass.
  bool reconnect = false;           // verify: over deaths of the back-end.
  std::optional<Duration> reconnect_timeout;  // Empty: never.
  std::optional<uint32_t> repeat;             // bench: empty: the default.
};

struct HelpText {
  std::string text;
};

// The options, or the help that was asked for.
// Errors: kInvalidArgument  with a hint where help is; the usage is wrong.
absl::StatusOr<std::variant<Options, HelpText>> parse_command_line(
    std::span<char* const> argv);

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_CLI_H_
