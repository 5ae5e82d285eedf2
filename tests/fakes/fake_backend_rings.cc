// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/fakes/fake_backend_run.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kMaxRingSize = 32768;

bool overlap(const FakeMemory& a, const FakeMemory& b) {
  return a.gpa < b.gpa + b.size && b.gpa < a.gpa + a.size;
}

bool holds(const FakeMemory& memory, uint64_t start, const RingPart& part,
           uint64_t at) {
  return at >= start && at - start <= memory.size &&
         part.size <= memory.size - (at - start);
}

FakeMemory fake_memory(const MemoryTableEntry& entry) {
  return {.gpa = entry.gpa, .size = entry.size, .user = entry.user};
}

bool open_fd(FdRef fd) { return fd.valid() && ::fcntl(fd.get(), F_GETFD) >= 0; }

UniqueFd duplicate(FdRef fd) {
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

}  // namespace

// ---------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------

void FakeBackend::Run::change_memory(const MemoryDiff& diff) {
  if (!traits_.incremental_memory) return set_table(diff);
  for (uint32_t i = 0; i < diff.removed.size(); ++i) {
    step({.kind = StepKind::kMemoryRemove, .index = i}, "memory remove",
         [&] { return remove(diff.removed[i]); });
  }
  for (uint32_t i = 0; i < diff.added.size(); ++i) {
    step({.kind = StepKind::kMemoryAdd, .index = i}, "memory add",
         [&] { return add(diff.added[i]); });
  }
}

void FakeBackend::Run::set_table(const MemoryDiff& diff) {
  step({.kind = StepKind::kMemoryTable}, "memory table", [&] {
    if (diff.after == nullptr) return fake_refusal("no table");
    if (diff.after->size() > traits_.max_memory_slots) {
      return fake_refusal("more entries than slots");
    }
    std::map<uint64_t, FakeMemory> table;
    for (const MemoryTableEntry& entry : diff.after->entries()) {
      const FakeMemory piece = fake_memory(entry);
      VHOST_RETURN_IF_ERROR(acceptable(piece, entry.fd));
      if (logs()) VHOST_RETURN_IF_ERROR(log_reaches(piece));
      if (!table.emplace(piece.gpa, piece).second) {
        return fake_refusal("entries overlap");
      }
    }
    const FakeMemory* before = nullptr;
    for (const auto& [gpa, piece] : table) {
      if (before != nullptr && overlap(*before, piece)) {
        return fake_refusal("entries overlap");
      }
      before = &piece;
    }
    backend_.memory = std::move(table);
    return absl::OkStatus();
  });
}

absl::Status FakeBackend::Run::acceptable(const FakeMemory& piece,
                                          FdRef fd) const {
  if (piece.size == 0) return fake_refusal("entry of 0 bytes");
  if (piece.gpa + piece.size - 1 < piece.gpa) {
    return fake_refusal("entry wraps");
  }
  if (traits_.memory_policy.fd_only && !open_fd(fd)) {
    return fake_refusal("no descriptor for an entry");
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::remove(const MemoryTableEntry& entry) {
  const auto found = backend_.memory.find(entry.gpa);
  if (found == backend_.memory.end() || found->second != fake_memory(entry)) {
    return fake_refusal("no such entry");
  }
  for (const auto& [index, queue] : backend_.queues) {
    if (!queue.started || !queue.addr.has_value()) continue;
    if (holds(found->second, entry.gpa, queue.addr->desc,
              queue.addr->desc.gpa)) {
      return fake_refusal(
          absl::StrCat("the ring of vq ", index, " lies in it"));
    }
  }
  backend_.memory.erase(found);
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::add(const MemoryTableEntry& entry) {
  const FakeMemory piece = fake_memory(entry);
  VHOST_RETURN_IF_ERROR(acceptable(piece, entry.fd));
  for (const auto& [gpa, known] : backend_.memory) {
    if (overlap(known, piece)) return fake_refusal("entries overlap");
  }
  if (backend_.memory.size() >= traits_.max_memory_slots) {
    return fake_refusal("no slot left");
  }
  if (logs()) VHOST_RETURN_IF_ERROR(log_reaches(piece));
  backend_.memory.emplace(piece.gpa, piece);
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::set_log(const LogArea& area) {
  if (!traits_.takes_log) return fake_refusal("takes no log");
  if (area.size != 0 && traits_.needs_shared_log && !open_fd(area.fd)) {
    return fake_refusal("no descriptor for the log");
  }
  const uint64_t before = std::exchange(backend_.log_size, area.size);
  const absl::Status reaches = logs() ? log_reaches_all() : absl::OkStatus();
  if (!reaches.ok()) {
    backend_.log_size = before;
    return reaches;
  }
  backend_.log_base = static_cast<std::byte*>(area.base);
  return absl::OkStatus();
}

// Whether a page may be marked at any moment.
bool FakeBackend::Run::logs() const {
  if (!backend_.features.has_value()) return false;
  const bool started =
      std::any_of(backend_.queues.begin(), backend_.queues.end(),
                  [](const auto& entry) { return entry.second.started; });
  return started && backend_.features->has(kFeatureLogAll);
}

// Real back-ends abort when they mark a page that their log has no bit for.
absl::Status FakeBackend::Run::log_reaches(const FakeMemory& piece) const {
  const uint64_t last_page = (piece.gpa + (piece.size - 1)) / 4096;
  if (last_page / 8 < backend_.log_size) return absl::OkStatus();
  return fake_refusal("the log does not reach the end of memory");
}

absl::Status FakeBackend::Run::log_reaches_all() const {
  for (const auto& [gpa, piece] : backend_.memory) {
    VHOST_RETURN_IF_ERROR(log_reaches(piece));
  }
  return backend_.log_size != 0 ? absl::OkStatus()
                                : fake_refusal("there is no log");
}

// ---------------------------------------------------------------------------
// Queues
// ---------------------------------------------------------------------------

void FakeBackend::Run::configure_queue(const VringSetup& setup) {
  const uint32_t index = to_int(setup.index);
  queue_step(StepKind::kNum, index, "num", [&] { return set_num(setup); });
  queue_step(StepKind::kBase, index, "base", [&] {
    VHOST_RETURN_IF_ERROR(idle_queue(index));
    backend_.queues[index].base = setup.base;
    return absl::OkStatus();
  });
  queue_step(StepKind::kAddr, index, "addr", [&] { return set_addr(setup); });
  queue_step(StepKind::kCall, index, "call", [&] {
    VHOST_RETURN_IF_ERROR(idle_queue(index));
    FakeQueue& queue = backend_.queues[index];
    return set_notifier(setup.call, queue.call, queue.call_mode);
  });
  queue_step(StepKind::kErr, index, "err", [&] {
    VHOST_RETURN_IF_ERROR(idle_queue(index));
    NotifyMode mode = NotifyMode::kPolling;
    return set_notifier(setup.err, backend_.queues[index].err, mode);
  });
}

// Whether `index` may be set up now.
absl::Status FakeBackend::Run::idle_queue(uint32_t index) {
  if (index >= traits_.max_queues) return fake_refusal("no such queue");
  if (!backend_.features.has_value()) {
    return fake_refusal("features are not set");
  }
  const auto found = backend_.queues.find(index);
  if (found != backend_.queues.end() && found->second.started) {
    return fake_refusal("queue is running");
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::set_num(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(idle_queue(to_int(setup.index)));
  const bool packed = backend_.features->has(kFeatureRingPacked);
  if (setup.num == 0 || setup.num > kMaxRingSize ||
      (!packed && !std::has_single_bit(setup.num))) {
    return fake_refusal(absl::StrCat("ring of ", setup.num, " descriptors"));
  }
  backend_.queues[to_int(setup.index)].num = setup.num;
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::set_addr(const VringSetup& setup) {
  VHOST_RETURN_IF_ERROR(idle_queue(to_int(setup.index)));
  FakeQueue& queue = backend_.queues[to_int(setup.index)];
  const VringAddresses& addr = setup.addr;
  if (queue.num == 0) return fake_refusal("address before size");
  const bool packed = backend_.features->has(kFeatureRingPacked);
  const uint64_t num = queue.num;
  if (addr.desc.size < 16 * num ||
      addr.avail.size < (packed ? 4 : 4 + 2 * num) ||
      addr.used.size < (packed ? 4 : 4 + 8 * num)) {
    return fake_refusal("a ring part is too short");
  }
  if (addr.desc.gpa % 16 != 0 || addr.avail.gpa % (packed ? 4 : 2) != 0 ||
      addr.used.gpa % 4 != 0) {
    return fake_refusal("a ring part is not aligned");
  }
  if (!backend_.features->has(kFeatureAccessPlatform)) {
    for (const RingPart& part : {addr.desc, addr.avail, addr.used}) {
      VHOST_RETURN_IF_ERROR(reachable(part));
    }
  } else {
    const IotlbAccess desc = packed ? IotlbAccess::kBoth : IotlbAccess::kRead;
    VHOST_RETURN_IF_ERROR(translated(addr.desc, desc));
    VHOST_RETURN_IF_ERROR(translated(addr.avail, IotlbAccess::kRead));
    VHOST_RETURN_IF_ERROR(translated(addr.used, IotlbAccess::kWrite));
  }
  if (setup.log_used && backend_.log_size == 0) {
    return fake_refusal("there is no log");
  }
  queue.addr = addr;
  queue.log_used = setup.log_used;
  return absl::OkStatus();
}

// Whether one entry holds all of `part`, at the address it is said to have.
absl::Status FakeBackend::Run::reachable(const RingPart& part) const {
  for (const auto& [gpa, piece] : backend_.memory) {
    if (!holds(piece, piece.gpa, part, part.gpa)) continue;
    if (part.user - piece.user == part.gpa - piece.gpa) {
      return absl::OkStatus();
    }
    return fake_refusal("guest and user address of a ring part differ");
  }
  return fake_refusal("a ring part lies outside memory");
}

absl::Status FakeBackend::Run::update_iotlb(const UpdateIotlb& update) {
  const IotlbEntry& entry = update.entry;
  if (!traits_.has_iotlb) return fake_refusal("there is no iotlb");
  if (entry.size == 0) return fake_refusal("translation of 0 bytes");
  const uint64_t last = entry.iova + (entry.size - 1);
  if (last < entry.iova) return fake_refusal("translation wraps");
  if (entry.access == IotlbAccess::kNone) {
    std::erase_if(backend_.iotlb, [&entry, last](const auto& known) {
      const IotlbEntry& other = known.second;
      return known.first <= last && entry.iova <= other.iova + (other.size - 1);
    });
    return absl::OkStatus();
  }
  VHOST_RETURN_IF_ERROR(
      reachable({.gpa = entry.gpa, .size = entry.size, .user = update.user}));
  backend_.iotlb[entry.iova] = entry;
  return absl::OkStatus();
}

// Whether all of `part` is translated, whatever the number of pieces.
absl::Status FakeBackend::Run::translated(const RingPart& part,
                                          IotlbAccess needed) const {
  if (part.user != 0) return fake_refusal("a user address behind an IOMMU");
  const auto bits = static_cast<unsigned>(needed);
  uint64_t at = part.gpa;
  while (at - part.gpa < part.size) {
    const auto next = backend_.iotlb.upper_bound(at);
    if (next == backend_.iotlb.begin()) break;
    const IotlbEntry& entry = std::prev(next)->second;
    const auto given = static_cast<unsigned>(entry.access);
    if (at - entry.iova >= entry.size || (given & bits) != bits) break;
    at = entry.iova + entry.size;
  }
  if (at - part.gpa >= part.size) return absl::OkStatus();
  return fake_refusal(absl::StrCat("no translation of a ring part at ", at));
}

absl::Status FakeBackend::Run::set_notifier(NotifyRef ref, UniqueFd& fd,
                                            NotifyMode& mode) {
  if (ref.mode() == NotifyMode::kInBand && !traits_.in_band_notifications) {
    return fake_refusal("in-band notifications are not negotiated");
  }
  if (ref.mode() == NotifyMode::kFd && !open_fd(ref.fd())) {
    return fake_refusal("no descriptor for a notifier");
  }
  fd = ref.mode() == NotifyMode::kFd ? duplicate(ref.fd()) : UniqueFd();
  mode = ref.mode();
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::start(const Go::Queue& go) {
  VHOST_RETURN_IF_ERROR(idle_queue(to_int(go.index)));
  const auto found = backend_.queues.find(to_int(go.index));
  if (found == backend_.queues.end() || !found->second.addr.has_value()) {
    return fake_refusal("not configured");
  }
  FakeQueue& queue = found->second;
  if (backend_.features->has(kFeatureLogAll)) {
    VHOST_RETURN_IF_ERROR(log_reaches_all());
  }
  VHOST_RETURN_IF_ERROR(set_notifier(go.kick, queue.kick, queue.kick_mode));
  queue.started = true;
  queue.enabled = !traits_.has_queue_enable;
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::started(uint32_t index) const {
  const auto found = backend_.queues.find(index);
  if (found == backend_.queues.end() || !found->second.started) {
    return fake_refusal("not started");
  }
  return absl::OkStatus();
}

absl::Status FakeBackend::Run::enable(uint32_t index, bool on) {
  VHOST_RETURN_IF_ERROR(started(index));
  backend_.queues[index].enabled = on;
  return absl::OkStatus();
}

}  // namespace vhost::testing
