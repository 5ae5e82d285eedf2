// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/options.h"

#include <getopt.h>

#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/options_ctl.h"
#include "tools/vhostctl/output.h"
#include "tools/vhostctl/pattern.h"
#include "tools/vhostctl/values.h"
#include "vhostdev/status.h"
#include "vhostdev/vring.h"

namespace vhost::minivm {
namespace {

using ctl::parse_bytes;
using ctl::parse_number;
using ctl::parse_seconds;

constexpr uint64_t kSmallestMemory = uint64_t{2} << 20;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kMostCpus = 64;
constexpr uint64_t kMostDepth = 1024;
// Source: linux/if.h, IFNAMSIZ.
constexpr size_t kMostInterfaceName = 15;

using options::store;
using options::store_path;
using options::wrong;

absl::Status store_switch(bool& field, absl::string_view text) {
  if (text != "on" && text != "off") {
    return wrong("\"", text, "\" is neither on nor off");
  }
  field = text == "on";
  return absl::OkStatus();
}

absl::Status store_optional(std::optional<ChannelAddress>& field,
                            const absl::StatusOr<ChannelAddress>& value) {
  if (value.ok()) field = *value;
  return value.status();
}

// "a=1,b" as pairs; a name without "=" has no value.
using Pairs = std::vector<std::pair<absl::string_view, absl::string_view>>;
Pairs pairs_of(absl::string_view text) {
  Pairs out;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    out.push_back(pair);
  }
  return out;
}

absl::Status set_backend(DeviceOptions& out, BackendKind kind,
                         absl::string_view path) {
  if (!out.path.empty()) return wrong("more than one back-end");
  out.backend = kind;
  return store_path(out.path, path);
}

absl::Status set_disk_part(DeviceOptions& out, absl::string_view name,
                           absl::string_view value) {
  if (name == "socket") return set_backend(out, BackendKind::kSocket, value);
  if (name == "vdpa") return set_backend(out, BackendKind::kVdpa, value);
  if (name == "queues") {
    return store(out.queues, parse_number(value, 1, kMaxQueues));
  }
  if (name == "reconnect") return store_switch(out.reconnect, value);
  return wrong("there is no \"", name, "\" of a disk");
}

absl::Status set_net_part(DeviceOptions& out, absl::string_view name,
                          absl::string_view value) {
  if (name == "socket") return set_backend(out, BackendKind::kSocket, value);
  if (name == "kernel") {
    if (value.size() > kMostInterfaceName) {
      return wrong("a name has at most ", kMostInterfaceName, " bytes");
    }
    return set_backend(out, BackendKind::kTap, value);
  }
  if (name == "reconnect") return store_switch(out.reconnect, value);
  return wrong("there is no \"", name, "\" of a net");
}

absl::Status set_workload_part(Workload& out, absl::string_view name,
                               absl::string_view value) {
  if (name == "polled" && value.empty()) {
    out.polled = true;
    return absl::OkStatus();
  }
  if (name == "size") {
    absl::StatusOr<uint64_t> size = parse_bytes(value);
    if (size.ok() && (*size == 0 || *size % kPage != 0)) {
      return wrong("size of ", *size, " bytes: not a multiple of ", kPage);
    }
    return store(out.size, size);
  }
  if (name == "depth") {
    return store(out.depth, parse_number(value, 1, kMostDepth));
  }
  if (name == "seconds") return store(out.seconds, parse_seconds(value));
  if (name == "seed") {
    return store(out.seed,
                 parse_number(value, 1, std::numeric_limits<uint64_t>::max()));
  }
  return wrong("there is no \"", name, "\" of a workload");
}

absl::Status set_memory(RunOptions& out, absl::string_view text) {
  const absl::StatusOr<uint64_t> size = parse_bytes(text);
  if (!size.ok()) return size.status();
  if (*size < kSmallestMemory || *size > kMaxRam || *size % kPage != 0) {
    return wrong(*size, " bytes: not a multiple of ", kPage, " from ",
                 ctl::human_bytes(kSmallestMemory), " to ",
                 ctl::human_bytes(kMaxRam));
  }
  out.memory = *size;
  return absl::OkStatus();
}

absl::Status set_guest(RunOptions& out, absl::string_view text) {
  if (text != "driver" && text != "payload") {
    return wrong("\"", text, "\" is neither driver nor payload");
  }
  out.guest = text == "driver" ? GuestKind::kDriver : GuestKind::kPayload;
  return absl::OkStatus();
}

absl::Status set_mask_mode(RunOptions& out, absl::string_view text) {
  if (text != "local" && text != "backend") {
    return wrong("\"", text, "\" is neither local nor backend");
  }
  out.mask_mode = text == "local" ? MaskMode::kLocal : MaskMode::kBackend;
  return absl::OkStatus();
}

absl::Status add_device(RunOptions& out,
                        const absl::StatusOr<DeviceOptions>& device) {
  if (!device.ok()) return device.status();
  if (out.devices.size() == kDeviceGsis.size()) {
    return wrong("more than ", kDeviceGsis.size(), " devices");
  }
  out.devices.push_back(*device);
  return absl::OkStatus();
}

struct OptionSpec {
  const char* name;   // Without the dashes.
  const char* value;  // What its value is called; null: it takes none.
  const char* help;
  absl::Status (*set)(RunOptions& out, absl::string_view value);
};

constexpr std::array<OptionSpec, 17> kRunOptions = {{
    {"memory", "SIZE", "RAM, such as 64M (needed)", set_memory},
    {"hugepages", nullptr, "RAM of huge pages of 2 MiB",
     [](RunOptions& out, absl::string_view) {
       out.hugepages = true;
       return absl::OkStatus();
     }},
    {"cpus", "N", "virtual processors (default: 1)",
     [](RunOptions& out, absl::string_view text) {
       return store(out.cpus, parse_number(text, 1, kMostCpus));
     }},
    {"guest", "driver|payload",
     "who uses the devices: the library's driver in this process, or a "
     "program on KVM (needed)",
     set_guest},
    {"payload", "FILE", "this ELF file instead of the payload built in",
     [](RunOptions& out, absl::string_view text) {
       return store_path(out.payload, text);
     }},
    {"disk", "socket=PATH|vdpa=PATH[,queues=N][,reconnect=on|off]",
     "a disk and its back-end; may be given again",
     [](RunOptions& out, absl::string_view text) {
       return add_device(out, parse_disk(text));
     }},
    {"net", "socket=PATH|kernel=TAP[,reconnect=on|off]",
     "a network device and its back-end; may be given again",
     [](RunOptions& out, absl::string_view text) {
       return add_device(out, parse_net(text));
     }},
    {"workload",
     "verify|read[,size=BYTES][,depth=D][,seconds=S][,seed=N][,polled]",
     "what the guest does: it writes, reads and compares, or only reads "
     "(default: verify, until it is told to quit)",
     [](RunOptions& out, absl::string_view text) {
       out.workload_given = true;
       return store(out.workload, parse_workload(text));
     }},
    {"incoming", "tcp:HOST:PORT|unix:PATH",
     "wait there for a guest that moves (minivm ctl migrate), and run it; port "
     "0 is any, and told on standard error",
     [](RunOptions& out, absl::string_view text) {
       return store_optional(out.incoming, parse_channel(text));
     }},
    {"restore", "FILE", "run the guest that minivm ctl save put there",
     [](RunOptions& out, absl::string_view text) {
       return store_path(out.restore, text);
     }},
    {"control", "PATH", "listen there for `minivm ctl`",
     [](RunOptions& out, absl::string_view text) {
       return store_path(out.control, text);
     }},
    {"dump-dtb", "FILE", "write the device tree there",
     [](RunOptions& out, absl::string_view text) {
       return store_path(out.dump_dtb, text);
     }},
    {"mask-mode", "local|backend", "how vectors are masked (default: local)",
     set_mask_mode},
    {"no-irqfd", nullptr, "interrupts through a thread of minivm",
     [](RunOptions& out, absl::string_view) {
       out.irqfd = false;
       return absl::OkStatus();
     }},
    {"no-ioeventfd", nullptr, "notifications through a thread of minivm",
     [](RunOptions& out, absl::string_view) {
       out.ioeventfd = false;
       return absl::OkStatus();
     }},
    {"json", nullptr, "the report as one line of JSON",
     [](RunOptions& out, absl::string_view) {
       out.json = true;
       return absl::OkStatus();
     }},
    {"help", nullptr, "this text", nullptr},
}};

std::string help_text() {
  std::string out =
      "usage:\n"
      "  minivm run --memory SIZE --guest driver|payload [OPTION...]\n"
      "      runs a virtual machine whose guest verifies its disks and nets\n"
      "      or, with --incoming or --restore, one that moves here: memory,\n"
      "      vCPUs and devices as there, and the workload goes on\n"
      "  minivm ctl PATH status|stats|resume|quit [--json]\n"
      "  minivm ctl PATH pause [--devices [--no-drain]] [--json]\n"
      "  minivm ctl PATH add-memory SIZE [--json]\n"
      "  minivm ctl PATH remove-memory ID [--json]\n"
      "  minivm ctl PATH mask|unmask DEVICE QUEUE [--json]\n"
      "      asks one that runs; PATH is its --control.  The payload takes a\n"
      "      vector that stays masked for 2 s for lost interrupts\n"
      "  minivm ctl PATH migrate tcp:HOST:PORT|unix:PATH [MOVE...] [--json]\n"
      "      moves the guest to a minivm run --incoming, while it runs.  Exit\n"
      "      status 0: it runs there, and the one asked ends; else it goes on\n"
      "      here, or the error says where it is\n"
      "  minivm ctl PATH save FILE [MOVE...] [--json]\n"
      "      the same into a file, for minivm run --restore; the one asked "
      "ends\n"
      "  minivm ctl PATH cancel [--json]\n"
      "      ends a migration; the guest goes on here\n"
      "  minivm ctl PATH take-over [--json]\n"
      "      after a connection was lost at the very end, so that nobody "
      "knows\n"
      "      who has the guest: the other side does not run it and never "
      "will.\n"
      "      It goes on here\n"
      "options of migrate and save (MOVE):\n"
      "  --bandwidth BYTES  per second, while the guest runs (default: all)\n"
      "  --downtime MS      to aim at (default: 300)\n"
      "  --compare          compare all of memory before the guest goes on\n"
      "  --no-drain         the guest is not asked to let its requests "
      "complete.\n"
      "                     Where a back-end keeps no inflight area they are "
      "waited\n"
      "                     for once it is halted; those that take too long "
      "end the\n"
      "                     move or the pause, and all goes on here\n"
      "  --progress         a line of progress on standard error, terminal or "
      "not\n"
      "options of run:\n";
  for (const OptionSpec& spec : kRunOptions) {
    absl::StrAppend(&out, "  --", spec.name, spec.value == nullptr ? "" : " ",
                    spec.value == nullptr ? "" : spec.value, "\n      ",
                    spec.help, "\n");
  }
  absl::StrAppend(&out,
                  "exit status: 0, 1 after a fault or an error, 2 for a wrong "
                  "usage\n");
  return out;
}

absl::Status check(const RunOptions& options) {
  if (options.memory == 0) return wrong("--memory is needed");
  if (!options.guest.has_value()) return wrong("--guest is needed");
  if (options.devices.empty()) return wrong("--disk or --net is needed");
  const bool driver = *options.guest == GuestKind::kDriver;
  if (options.incoming.has_value() && !options.restore.empty()) {
    return wrong("--incoming or --restore, not both");
  }
  if (comes(options) && options.workload_given) {
    return wrong("--workload: the guest that comes brings its own");
  }
  if (comes(options) && !options.payload.empty()) {
    return wrong("--payload: the guest that comes brings its own");
  }
  if (driver && !options.payload.empty()) {
    return wrong("--payload needs --guest payload");
  }
  if (driver && options.workload.read_only) {
    return wrong("--workload read needs --guest payload");
  }
  if (driver && (!options.irqfd || !options.ioeventfd)) {
    return wrong("--no-irqfd and --no-ioeventfd need --guest payload");
  }
  size_t sockets = 0;
  for (const DeviceOptions& device : options.devices) {
    const bool socket = device.backend == BackendKind::kSocket;
    sockets += device.net && socket ? 1 : 0;
  }
  if (driver && sockets % 2 != 0) {
    return wrong(
        "--guest driver: frames go from one net to another, so nets "
        "with sockets come in twos");
  }
  return absl::OkStatus();
}

absl::Status usage_error(const absl::Status& status) {
  return wrong(status.message(), "; see: minivm --help");
}

// What getopt_long did not like; `last` is the argument it looked at.
absl::Status option_error(int got, absl::string_view last) {
  return got == ':'
             ? wrong("a value is missing after ", last)
             : wrong("unknown option, or a value that is not allowed: ", last);
}

// Parses what follows "run"; args[0] is not looked at.
absl::StatusOr<CommandLine> parse_run(std::vector<char*> args) {
  // What getopt_long returns for the i-th option is kFirst + i.
  constexpr int kFirst = 256;
  std::vector<option> table;
  for (const OptionSpec& spec : kRunOptions) {
    table.push_back({spec.name,
                     spec.value == nullptr ? no_argument : required_argument,
                     nullptr, kFirst + static_cast<int>(table.size())});
  }
  table.push_back({nullptr, 0, nullptr, 0});
  const int count = static_cast<int>(args.size());
  args.push_back(nullptr);
  optind = 0;  // Makes glibc begin anew.
  opterr = 0;
  RunOptions out;
  out.workload.seed = ctl::random_seed();
  int got = 0;
  while ((got = getopt_long(count, args.data(), ":", table.data(), nullptr)) !=
         -1) {
    if (got < kFirst) {
      return option_error(got, args[static_cast<size_t>(optind) - 1]);
    }
    const OptionSpec& spec = kRunOptions[static_cast<size_t>(got - kFirst)];
    if (spec.set == nullptr) return HelpText{help_text()};
    const absl::Status set = spec.set(out, optarg == nullptr ? "" : optarg);
    if (!set.ok()) return wrong("--", spec.name, ": ", set.message());
  }
  if (optind < count) {
    return wrong("unexpected argument \"", args[static_cast<size_t>(optind)],
                 "\"");
  }
  VHOST_RETURN_IF_ERROR(check(out));
  return out;
}

absl::StatusOr<CommandLine> parse(std::span<char* const> argv) {
  if (argv.size() < 2) return wrong("a command is missing");
  const absl::string_view command = argv[1];
  if (command == "--help" || command == "-h") return HelpText{help_text()};
  if (command == "run") {
    return parse_run(std::vector<char*>(argv.begin() + 1, argv.end()));
  }
  if (command == "ctl") {
    if (options::wants_help(argv.subspan(2))) return HelpText{help_text()};
    const absl::StatusOr<CtlOptions> ctl = options::parse_ctl(argv.subspan(2));
    if (!ctl.ok()) return ctl.status();
    return *ctl;
  }
  return wrong("unknown command or option \"", command, "\"");
}

}  // namespace

absl::StatusOr<CommandLine> parse_command_line(std::span<char* const> argv) {
  absl::StatusOr<CommandLine> out = parse(argv);
  if (!out.ok()) return usage_error(out.status());
  return out;
}

std::vector<std::string> device_names(std::span<const DeviceOptions> devices) {
  std::vector<std::string> out;
  size_t disks = 0;
  size_t nets = 0;
  for (const DeviceOptions& device : devices) {
    out.push_back(device.net ? absl::StrCat("net", nets++)
                             : absl::StrCat("disk", disks++));
  }
  return out;
}

absl::StatusOr<DeviceOptions> parse_disk(absl::string_view text) {
  DeviceOptions out;
  for (const auto& [name, value] : pairs_of(text)) {
    VHOST_RETURN_IF_ERROR(set_disk_part(out, name, value));
  }
  if (out.path.empty()) return wrong("socket=PATH or vdpa=PATH is needed");
  return out;
}

absl::StatusOr<DeviceOptions> parse_net(absl::string_view text) {
  DeviceOptions out;
  out.net = true;
  out.queues = 2;
  for (const auto& [name, value] : pairs_of(text)) {
    VHOST_RETURN_IF_ERROR(set_net_part(out, name, value));
  }
  if (out.path.empty()) return wrong("socket=PATH or kernel=TAP is needed");
  return out;
}

absl::StatusOr<Workload> parse_workload(absl::string_view text) {
  Workload out;
  out.seed = ctl::random_seed();
  const Pairs pairs = pairs_of(text);
  out.read_only = pairs.front() == Pairs::value_type("read", "");
  if (!out.read_only && pairs.front() != Pairs::value_type("verify", "")) {
    return wrong("it does not begin with \"verify\" or \"read\"");
  }
  for (size_t i = 1; i < pairs.size(); ++i) {
    VHOST_RETURN_IF_ERROR(
        set_workload_part(out, pairs[i].first, pairs[i].second));
  }
  return out;
}

}  // namespace vhost::minivm
