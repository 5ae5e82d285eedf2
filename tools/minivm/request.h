// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_REQUEST_H_
#define TOOLS_MINIVM_REQUEST_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/vhostctl/output.h"

namespace vhost::minivm {

// What `minivm ctl` may ask a running VM, over its control socket.  A request
// and its answer are one line of JSON each:
//
//   {"command":"pause","devices":true}   {"ok":true}
//   {"command":"mask","device":"disk0","queue":1}
//   {"command":"add-memory","size":1048576}   {"ok":true,"id":1,...}
//   {"command":"remove-memory","id":1}
//                                        {"ok":false,"error":"NOT_FOUND: ..."}
//   {"command":"migrate","to":"tcp:10.0.0.2:4444","downtime_ms":300}
//                                        {"ok":true,"downtime_ms":14.2,...}
//   {"command":"save","to":"/var/vm.state"}
enum class Verb : uint8_t {
  kStatus,
  kPause,
  kResume,
  kAddMemory,
  kRemoveMemory,
  kMask,
  kUnmask,
  kStats,
  kQuit,
  kMigrate,
  kSave,
  kCancel,
  kTakeOver,
};
absl::string_view to_string(Verb verb);  // "remove-memory"
// Errors: kInvalidArgument  there is none of that name.
absl::StatusOr<Verb> verb_of(absl::string_view name);

struct Request {
  Verb verb = Verb::kStatus;
  bool devices = false;  // Pause: the devices too.
  uint64_t size = 0;     // Add-memory: bytes.
  uint64_t id = 0;       // Remove-memory.
  std::string device;    // Mask, unmask: "disk0".
  uint32_t queue = 0;    // Mask, unmask.

  // Pause with devices, migrate, save: the guest is not asked to let what is in
  // flight complete.
  bool no_drain = false;
  // Migrate: an address (channel.h) with a number for a host.  Save: a path
  // from the root on.
  std::string to = {};
  uint64_t bandwidth = 0;    // Migrate, save: bytes per second; 0: all.
  uint64_t downtime_ms = 0;  // Migrate: to aim at; 0: the default.
  bool compare = false;      // Migrate, save: all of memory, at the end.

  friend bool operator==(const Request&, const Request&) = default;
};

// Most milliseconds of downtime to aim at: an hour.
inline constexpr uint64_t kMostDowntimeMs = 3'600'000;

// Bytes of a line, at most, without its end.
inline constexpr size_t kMostRequestBytes = 4096;

// A request from its line.  Fields that it does not have are an error, too.
// Errors: kInvalidArgument  saying what is wrong; nothing of it is unprintable.
absl::StatusOr<Request> parse_request(absl::string_view line);

// The line of a request, or of an answer, with its end.
std::string to_line(const Request& request);
std::string to_line(const absl::StatusOr<ctl::Json>& answer);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_REQUEST_H_
