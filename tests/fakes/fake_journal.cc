// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fake_journal.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace vhost::testing {
namespace {

std::string notifier(absl::string_view name, NotifyRef ref) {
  switch (ref.mode()) {
    case NotifyMode::kFd:
      return std::string(name);
    case NotifyMode::kPolling:
      return absl::StrCat(name, ":polling");
    case NotifyMode::kInBand:
      return absl::StrCat(name, ":in-band");
  }
  return std::string(name);
}

std::string queue(BackendQueue vq) { return absl::StrCat("q", to_int(vq)); }

std::string memory(const MemoryDiff& diff) {
  return absl::StrCat("-", diff.removed.size(), " +", diff.added.size());
}

// Says what comes behind the name of the verb, a line each.
struct Arguments {
  using Lines = std::vector<std::string>;

  template <typename T>
  Lines operator()(const T&) const {
    return {""};  // A verb without arguments.
  }

  Lines operator()(const Open& verb) const {
    if (verb.config_size == 0) return {""};
    return {absl::StrCat("config=", verb.config_size)};
  }
  Lines operator()(const SetFeatures& verb) const {
    if (verb.features.high() == 0) {
      return {absl::StrFormat("%#x", verb.features.low())};
    }
    return {absl::StrFormat("0x%x%016x", verb.features.high(),
                            verb.features.low())};
  }
  Lines operator()(const GetInflight& verb) const {
    return {
        absl::StrCat("queues=", verb.num_queues, " size=", verb.queue_size)};
  }
  Lines operator()(const Configure& verb) const {
    Lines lines;
    if (verb.memory.has_value()) {
      lines.push_back(absl::StrCat("memory ", memory(*verb.memory)));
    }
    if (verb.inflight.has_value()) lines.push_back("inflight");
    if (verb.log.has_value()) {
      lines.push_back(absl::StrCat("log=", verb.log->size));
    }
    for (const UpdateIotlb& update : verb.iotlb) {
      lines.push_back(absl::StrFormat("iotlb %#x+%d", update.entry.iova,
                                      update.entry.size));
    }
    for (const VringSetup& setup : verb.queues) {
      lines.push_back(absl::StrCat(
          queue(setup.index), " num=", setup.num, " base=", to_int(setup.base),
          setup.log_used ? " addr+log " : " addr ",
          notifier("call", setup.call), " ", notifier("err", setup.err)));
    }
    if (lines.empty()) lines.push_back("");
    return lines;
  }
  Lines operator()(const Go& verb) const {
    return each(verb.queues, [](const Go::Queue& entry) {
      return absl::StrCat(queue(entry.index), " ", notifier("kick", entry.kick),
                          entry.enabled ? " enabled" : "");
    });
  }
  Lines operator()(const Quiesce& verb) const {
    return each(verb.queues, queue);
  }
  Lines operator()(const Harvest& verb) const {
    return each(verb.queues, queue);
  }
  Lines operator()(const SetQueuesEnabled& verb) const {
    return each(verb.queues, [](const SetQueuesEnabled::Queue& entry) {
      return absl::StrCat(queue(entry.index), entry.enabled ? " on" : " off");
    });
  }
  Lines operator()(const UpdateMemory& verb) const {
    return {memory(verb.diff)};
  }
  Lines operator()(const SetCalls& verb) const {
    return each(verb.queues, [](const SetCalls::Queue& entry) {
      return absl::StrCat(queue(entry.index), " ",
                          notifier("call", entry.call));
    });
  }
  Lines operator()(const SetLog& verb) const {
    return {absl::StrCat(verb.log.size)};
  }
  Lines operator()(const SetRingLogging& verb) const {
    return each(verb.queues, [](const VringSetup& setup) {
      return absl::StrCat(queue(setup.index), setup.log_used ? " on" : " off");
    });
  }
  Lines operator()(const GetConfig& verb) const {
    return {absl::StrCat(verb.offset, "+", verb.size)};
  }
  Lines operator()(const SetConfig& verb) const {
    const bool driver = verb.writer == ConfigWriter::kDriver;
    return {absl::StrCat(verb.offset, "+", verb.bytes.size(),
                         driver ? " driver" : " migration")};
  }
  Lines operator()(const SetConfigCall& verb) const {
    return {notifier("call", verb.call)};
  }
  Lines operator()(const UpdateIotlb& verb) const {
    const bool remove = verb.entry.access == IotlbAccess::kNone;
    return {absl::StrFormat("%s%#x+%d", remove ? "-" : "", verb.entry.iova,
                            verb.entry.size)};
  }
  Lines operator()(const SetDeviceStateFd& verb) const {
    const bool save = verb.direction == StateDirection::kSave;
    return {save ? "save" : "load"};
  }
  Lines operator()(const SetMtu& verb) const {
    return {absl::StrCat(verb.mtu)};
  }
  Lines operator()(const SetGuestCid& verb) const {
    return {absl::StrCat(verb.cid)};
  }
  Lines operator()(const KickQueues& verb) const {
    return each(verb.queues, queue);
  }
  Lines operator()(const GetHostNotifiers& verb) const {
    return each(verb.queues, queue);
  }

 private:
  template <typename Entry, typename Line>
  static Lines each(const std::vector<Entry>& entries, Line line) {
    Lines lines;
    for (const Entry& entry : entries) lines.push_back(line(entry));
    if (lines.empty()) lines.push_back("");
    return lines;
  }
};

}  // namespace

std::vector<std::string> journal_lines(const Verb& verb) {
  std::vector<std::string> lines = std::visit(Arguments(), verb);
  for (std::string& line : lines) {
    const absl::string_view name = verb_name(verb);
    line = line.empty() ? std::string(name) : absl::StrCat(name, " ", line);
  }
  return lines;
}

}  // namespace vhost::testing
