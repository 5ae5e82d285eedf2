// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_OPTIONS_H_
#define TOOLS_MINIVM_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/channel.h"
#include "tools/minivm/request.h"
#include "tools/minivm/workload.h"
#include "vhostdev/vhost_dev.h"

namespace vhost::minivm {

enum class BackendKind : uint8_t {
  kSocket,  // vhost-user, listening at `path`.
  kVdpa,    // The vhost-vdpa device `path`.
  kTap,     // vhost-net over the tap interface `path`.
};

// One device of the VM, and who serves it.
struct DeviceOptions {
  bool net = false;  // Otherwise a disk.
  BackendKind backend = BackendKind::kSocket;
  std::string path;
  uint32_t queues = 1;
  bool reconnect = true;  // Sockets: when the back-end dies.
};

enum class GuestKind : uint8_t {
  kDriver,   // The library's own driver on threads of this process; no KVM.
  kPayload,  // A small program on KVM.
};

// `minivm run`.
struct RunOptions {
  uint64_t memory = 0;  // Bytes.
  bool hugepages = false;
  uint32_t cpus = 1;
  std::optional<GuestKind> guest;  // It is given.
  std::string payload;  // An ELF file instead of the payload built in; empty.
  // Disks and nets, each in the order given: disk0, disk1, net0.
  std::vector<DeviceOptions> devices;
  Workload workload;
  bool workload_given = false;
  // Where a guest comes in; empty: it has one of its own, or of a file.
  std::optional<ChannelAddress> incoming;
  std::string restore;   // The file that a guest was saved in; empty: none.
  std::string control;   // The socket of `minivm ctl`; empty: none.
  std::string dump_dtb;  // The file the device tree goes to; empty: none.
  bool json = false;
  MaskMode mask_mode = MaskMode::kLocal;
  bool irqfd = true;
  bool ioeventfd = true;
};

// Whether the guest comes from elsewhere.
inline bool comes(const RunOptions& options) {
  return options.incoming.has_value() || !options.restore.empty();
}

// `minivm ctl`.
struct CtlOptions {
  std::string socket;
  Request request;
  bool json = false;
  bool progress = false;  // Of a migration, terminal or not.
};

struct HelpText {
  std::string text;
};

using CommandLine = std::variant<RunOptions, CtlOptions, HelpText>;

// What the command line says, or the help that was asked for.
// Errors: kInvalidArgument  with a hint where help is; the usage is wrong.
absl::StatusOr<CommandLine> parse_command_line(std::span<char* const> argv);

// "disk0", "net1": the names of `devices`, in their order.
std::vector<std::string> device_names(std::span<const DeviceOptions> devices);

// What options of several values say: "socket=PATH,queues=4".
// Errors: kInvalidArgument.
absl::StatusOr<DeviceOptions> parse_disk(absl::string_view text);
absl::StatusOr<DeviceOptions> parse_net(absl::string_view text);
absl::StatusOr<Workload> parse_workload(absl::string_view text);

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_OPTIONS_H_
