// SPDX-License-Identifier: Apache-2.0
//
// An ELF file of any bytes, loaded into 2 MiB of guest memory.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "tools/minivm/machine/elf_loader.h"

namespace {

using vhost::AddressSpace;
using vhost::MemoryRegion;
using vhost::MemorySection;

constexpr uint64_t kRam = 2 << 20;
constexpr uint64_t kLowest = 1 << 20;

AddressSpace& memory() {
  static AddressSpace* const space = [] {
    auto* made = new AddressSpace;
    auto region = MemoryRegion::create_private("ram", kRam);
    if (!region.ok()) std::abort();
    MemorySection section;
    section.size = kRam;
    section.region = *std::move(region);
    if (!made->add(std::move(section)).ok()) std::abort();
    return made;
  }();
  return *space;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto program = vhost::minivm::parse_elf(file);
  if (!program.ok()) return 0;
  for (const auto& segment : program->segments) {
    if (segment.bytes.size() > segment.size) std::abort();
    if (!segment.bytes.empty() && (segment.bytes.data() < file.data() ||
                                   segment.bytes.data() + segment.bytes.size() >
                                       file.data() + file.size())) {
      std::abort();
    }
  }
  const auto loaded = vhost::minivm::load_elf(*program, memory(), kLowest);
  static_cast<void>(loaded);  // Either way.
  return 0;
}
