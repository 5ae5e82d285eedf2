// SPDX-License-Identifier: Apache-2.0
//
// What a VMM makes of a guest's IOMMU tables, of any value, and rings anywhere:
// format:u8 order:u8 { page:u8 offset:u8 }x3 answers...
// Each answer: iova page:u8 pages:u8 gpa page:u8 kind:u8; kind: bits 0-1
// access, bit 2 odd iova, bit 3 odd gpa, bit 4 odd size, bit 5 the top of the
// address space.
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hw/virtio/ring_layout.h"
#include "hw/virtio/ring_translation.h"
#include "vhostdev/features.h"

namespace vhost {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHost = 0x7f00'0000'0000;

void check(bool condition) {
  if (!condition) std::abort();
}

// Answers as the input says, whatever is asked.
class AnyServices final : public BackendServices {
 public:
  explicit AnyServices(std::span<const uint8_t> input) : input_(input) {}

  absl::StatusOr<IotlbEntry> translate(uint64_t iova, IotlbAccess) override {
    ++asked;
    if (input_.size() < 4) return absl::NotFoundError("no translation");
    const std::span<const uint8_t> in = input_.first(4);
    input_ = input_.subspan(4);
    const uint8_t kind = in[3];
    IotlbEntry entry;
    // Often what was asked for, or nothing would ever be accepted.
    entry.iova = in[0] == 0 ? iova / kPage * kPage : in[0] * kPage;
    entry.size = in[1] * kPage;
    entry.gpa = in[2] * kPage;
    entry.access = IotlbAccess{static_cast<uint8_t>(kind & 3)};
    if ((kind & 4) != 0) entry.iova += 16;
    if ((kind & 8) != 0) entry.gpa += 16;
    if ((kind & 16) != 0) entry.size += 1;
    if ((kind & 32) != 0) entry.size = ~uint64_t{0} - in[1];
    return entry;
  }

  int asked = 0;

 private:
  std::span<const uint8_t> input_;
};

MemorySection piece(uint64_t gpa, uint64_t pages, uint64_t host) {
  MemorySection section;
  section.gpa = gpa * kPage;
  section.size = pages * kPage;
  MemoryRegion::Options options;
  options.name = "ram";
  options.host = reinterpret_cast<std::byte*>(host);
  options.size = pages * kPage;
  options.page_size = kPage;
  section.region = std::make_shared<const MemoryRegion>(std::move(options));
  return section;
}

// Two pieces with a hole between them, and two that only look like one.
const MemoryView& memory() {
  static const MemoryView* const view = [] {
    const std::vector<MemorySection> sections = {
        piece(0, 32, kHost), piece(64, 32, kHost + (1 << 20)),
        piece(96, 32, kHost + (8 << 20))};
    return new MemoryView(MemoryPolicy(), sections);
  }();
  return *view;
}

void translate(std::span<const uint8_t> input) {
  const RingFormat format =
      (input[0] & 1) != 0 ? RingFormat::kPacked : RingFormat::kSplit;
  const RingSizes sizes = ring_sizes(format, 1u << input[1] % 16);
  const uint64_t base = (input[0] & 2) != 0 ? ~uint64_t{0} << 20 : 0;
  const auto part = [&](size_t at, uint64_t size) {
    const uint64_t iova = base + input[at] * kPage + input[at + 1] * 16;
    return RingPart{.gpa = iova, .size = size};
  };
  const VringAddresses ring = {.desc = part(2, sizes.desc),
                               .avail = part(4, sizes.avail),
                               .used = part(6, sizes.used)};
  for (const RingPart* one : {&ring.desc, &ring.avail, &ring.used}) {
    if (one->gpa + one->size < one->gpa) return;  // place_ring() refuses it.
  }
  AnyServices services(input.subspan(8));
  const absl::StatusOr<std::vector<UpdateIotlb>> pieces =
      translate_ring(ring, format, services, memory());
  // Every question finds a page at least.
  check(services.asked <= 3 * (32768 * 16 / 4096 + 2));
  if (!pieces.ok()) return;
  check(check_pieces_in_place(*pieces, memory()).ok());
  for (const UpdateIotlb& one : *pieces) {
    check((one.entry.iova | one.entry.gpa | one.entry.size) % kPage == 0);
    check(one.entry.size != 0 && one.entry.access != IotlbAccess::kNone);
  }
  for (const RingPart* one : {&ring.desc, &ring.avail, &ring.used}) {
    for (uint64_t at = 0; at < one->size; ++at) {
      check(find_user(*pieces, one->gpa + at, 1).has_value());
    }
  }
}

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= 8) vhost::translate(std::span(data, size));
  return 0;
}
