// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_VIRTIO_MEMORY_FIXTURE_H_
#define TESTS_VIRTIO_MEMORY_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "hw/virtio/context_impl.h"
#include "vhostdev/memory.h"

namespace vhost {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kHugePage = 2 << 20;

// A region whose memory does not exist: only its address counts.
inline std::shared_ptr<const MemoryRegion> region_at(
    uint64_t host, uint64_t size, uint64_t page_size = kPage, int fd = 7,
    absl::AnyInvocable<void()> release = {}) {
  return std::make_shared<const MemoryRegion>(
      MemoryRegion::Options{.name = "ram",
                            .host = reinterpret_cast<std::byte*>(host),
                            .size = size,
                            .fd = FdRef(fd),
                            .fd_offset = 0,
                            .page_size = page_size,
                            .release = std::move(release)});
}

inline MemorySection section_of(std::shared_ptr<const MemoryRegion> region,
                                uint64_t gpa, uint64_t offset, uint64_t size) {
  MemorySection section;
  section.gpa = gpa;
  section.size = size;
  section.region = std::move(region);
  section.offset_in_region = offset;
  return section;
}

inline std::vector<MemoryTableEntry> entries_of(
    const std::shared_ptr<const MemorySnapshot>& snapshot) {
  const auto span = snapshot->entries();
  return {span.begin(), span.end()};
}

// A device that answers when the test says so.
class FakeMemoryUser : public MemoryUser {
 public:
  absl::string_view name() const override { return name_; }
  MemoryPolicy memory_policy() const override { return policy; }
  uint64_t max_memory_slots() const override { return slots; }
  absl::Status memory_committed() override {
    ++told;
    if (on_told) on_told();
    is_settled = answers_at_once;
    return early_error;
  }
  bool memory_settled() const override { return is_settled; }
  void pump(MonotonicTime) override {
    ++pumped;
    if (on_pump) on_pump();
  }

  std::string name_ = "disk0";
  MemoryPolicy policy;
  uint64_t slots = UINT64_MAX;
  bool answers_at_once = true;
  absl::Status early_error;
  absl::AnyInvocable<void()> on_told;
  absl::AnyInvocable<void()> on_pump;

  bool is_settled = true;
  int told = 0;
  int pumped = 0;
};

}  // namespace vhost

#endif  // TESTS_VIRTIO_MEMORY_FIXTURE_H_
