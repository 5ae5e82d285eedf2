// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_vmm.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"

namespace vhost::testing {
namespace {

// An index field of a split ring lies behind its 16 bits of flags.
constexpr uint64_t kIndexOffset = 2;

std::atomic_ref<uint16_t> index_at(std::byte* ring) {
  return std::atomic_ref<uint16_t>(
      *reinterpret_cast<uint16_t*>(ring + kIndexOffset));
}

bool set_index(AddressSpace& space, uint64_t ring_gpa, uint16_t value) {
  std::byte* ring = space.translate(ring_gpa, kIndexOffset + sizeof(value));
  if (ring == nullptr) return false;
  index_at(ring).store(value, std::memory_order_release);
  return true;
}

template <typename Index>
std::string line(absl::string_view name, std::span<const Index> indexes) {
  std::string out(name);
  for (const Index index : indexes) absl::StrAppend(&out, " ", to_int(index));
  return out;
}

}  // namespace

std::shared_ptr<MemoryRegion> add_memory(AddressSpace& space, uint64_t gpa,
                                         uint64_t size,
                                         absl::string_view name) {
  absl::StatusOr<std::shared_ptr<MemoryRegion>> region =
      MemoryRegion::create_memfd(name, size);
  if (!region.ok()) return nullptr;
  MemorySection section;
  section.gpa = gpa;
  section.size = size;
  section.region = *region;
  if (!space.add(std::move(section)).ok()) return nullptr;
  return *std::move(region);
}

FakeVirtioDevice::FakeVirtioDevice(Options options)
    : queues(options.queues), id(options.device_id) {
  const bool packed = options.format == RingFormat::kPacked;
  for (uint32_t i = 0; i < options.queues; ++i) {
    const uint64_t slot = options.rings_gpa + i * kRingSlot;
    const uint64_t avail = slot + uint64_t{16} * options.num;
    const uint64_t avail_size = packed ? 4 : 6 + uint64_t{2} * options.num;
    queues[i].num = options.num;
    queues[i].desc_gpa = slot;
    queues[i].avail_gpa = avail;
    queues[i].used_gpa = (avail + avail_size + 3) / 4 * 4;
    queues[i].vector = VectorIndex{i};
  }
}

VirtqueueConfig FakeVirtioDevice::queue(QueueIndex vq) const {
  return to_int(vq) < queues.size() ? queues[to_int(vq)] : VirtqueueConfig();
}

bool set_used_index(AddressSpace& space, const VirtqueueConfig& queue,
                    uint16_t value) {
  return set_index(space, queue.used_gpa, value);
}

bool set_avail_index(AddressSpace& space, const VirtqueueConfig& queue,
                     uint16_t value) {
  return set_index(space, queue.avail_gpa, value);
}

std::optional<uint16_t> used_index(const AddressSpace& space,
                                   const VirtqueueConfig& queue) {
  std::byte* ring =
      space.translate(queue.used_gpa, kIndexOffset + sizeof(uint16_t));
  if (ring == nullptr) return std::nullopt;
  return index_at(ring).load(std::memory_order_acquire);
}

// ---------------------------------------------------------------------------
// FakeNotifierBinding
// ---------------------------------------------------------------------------

bool FakeNotifierBinding::kick(QueueIndex queue) {
  const auto found = kick_notifiers.find(to_int(queue));
  return found != kick_notifiers.end() && found->second->signal().ok();
}

uint64_t FakeNotifierBinding::interrupts(VectorIndex vector) {
  const absl::MutexLock lock(&mutex_);
  const auto bound = call_notifiers.find(to_int(vector));
  if (bound != call_notifiers.end() && !masked.contains(to_int(vector)) &&
      bound->second->test_and_clear()) {
    ++interrupts_[to_int(vector)];
  }
  return interrupts_[to_int(vector)];
}

absl::Status FakeNotifierBinding::bind_kicks(
    std::span<const KickBinding> bindings) {
  std::string entry = "bind_kicks";
  for (const KickBinding& binding : bindings) {
    absl::StrAppend(&entry, " ", to_int(binding.queue));
  }
  journal.push_back(std::move(entry));
  if (!fail_bind_kicks.ok()) return std::exchange(fail_bind_kicks, {});
  for (const KickBinding& binding : bindings) {
    kick_notifiers[to_int(binding.queue)] = binding.notifier;
  }
  return absl::OkStatus();
}

void FakeNotifierBinding::unbind_kicks(std::span<const QueueIndex> queues) {
  journal.push_back(line("unbind_kicks", queues));
  for (const QueueIndex queue : queues) kick_notifiers.erase(to_int(queue));
}

absl::Status FakeNotifierBinding::bind_calls(
    std::span<const CallBinding> bindings) {
  const absl::MutexLock lock(&mutex_);
  std::string entry = "bind_calls";
  for (const CallBinding& binding : bindings) {
    absl::StrAppend(&entry, " ", to_int(binding.vector));
  }
  journal.push_back(std::move(entry));
  if (!fail_bind_calls.ok()) return std::exchange(fail_bind_calls, {});
  for (const CallBinding& binding : bindings) {
    call_notifiers[to_int(binding.vector)] = binding.notifier;
  }
  return absl::OkStatus();
}

void FakeNotifierBinding::unbind_calls(std::span<const VectorIndex> vectors) {
  const absl::MutexLock lock(&mutex_);
  journal.push_back(line("unbind_calls", vectors));
  for (const VectorIndex vector : vectors) call_notifiers.erase(to_int(vector));
}

void FakeNotifierBinding::mask(VectorIndex vector) {
  const absl::MutexLock lock(&mutex_);
  journal.push_back(absl::StrCat("mask ", to_int(vector)));
  masked.insert(to_int(vector));
}

void FakeNotifierBinding::unmask(VectorIndex vector) {
  const absl::MutexLock lock(&mutex_);
  journal.push_back(absl::StrCat("unmask ", to_int(vector)));
  masked.erase(to_int(vector));
}

void FakeNotifierBinding::raise(VectorIndex vector) {
  const absl::MutexLock lock(&mutex_);
  journal.push_back(absl::StrCat("raise ", to_int(vector)));
  ++interrupts_[to_int(vector)];
}

// ---------------------------------------------------------------------------
// What is recorded
// ---------------------------------------------------------------------------

void RecordingBackendEvents::broken(const absl::Status& why) {
  broken_with.push_back(why);
  if (on_broken) on_broken();
}

void RecordingBackendEvents::reconnected() {
  ++reconnections;
  if (on_reconnected) on_reconnected();
}

void RecordingBackendEvents::needs_reset(const absl::Status& why) {
  resets_needed.push_back(why);
  if (on_needs_reset) on_needs_reset();
}

void RecordingBackendEvents::gave_up(const absl::Status& why) {
  gave_up_with.push_back(why);
  if (on_gave_up) on_gave_up();
}

absl::StatusOr<IotlbEntry> RecordingBackendServices::translate(
    uint64_t iova, IotlbAccess access) {
  translated.push_back(iova);
  if (on_translate) on_translate();
  for (const IotlbEntry& entry : entries) {
    const auto wanted = static_cast<unsigned>(access);
    const auto allowed = static_cast<unsigned>(entry.access);
    if (iova >= entry.iova && iova - entry.iova < entry.size &&
        (wanted & allowed) == wanted) {
      return entry;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no translation of iova ", iova));
}

void RecordingBackendServices::iotlb_access_failed(uint64_t iova,
                                                   IotlbAccess access) {
  static_cast<void>(access);
  failed.push_back(iova);
}

absl::Status RecordingBackendServices::set_host_notifier(
    QueueIndex queue, HostNotifierArea area) {
  if (!refuse_host_notifiers.ok()) return refuse_host_notifiers;
  if (area.fd.valid()) {
    doorbells.insert(to_int(queue));
  } else {
    doorbells.erase(to_int(queue));
  }
  host_notifiers.push_back(std::move(area));
  return absl::OkStatus();
}

}  // namespace vhost::testing
