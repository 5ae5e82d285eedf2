// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/vm_migration.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// Blocks of the two kinds have numbers of their own: pieces of RAM from 0 on,
// regions of the driver's memory from here on.
constexpr uint32_t kDriverBlock = uint32_t{1} << 31;

// Bytes of a guest that comes, at most: what another host says costs address
// space here.
constexpr uint64_t kMostMemory = uint64_t{1} << 40;

// The number behind `prefix`: "ram12"; nothing for any other name.
std::optional<uint32_t> number_of(absl::string_view name,
                                  absl::string_view prefix) {
  uint32_t number = 0;
  if (!absl::ConsumePrefix(&name, prefix) || name.empty() ||
      name.find_first_not_of("0123456789") != absl::string_view::npos ||
      !absl::SimpleAtoi(name, &number) || number >= kDriverBlock) {
    return std::nullopt;
  }
  return number;
}

absl::Status occupied(const RamBlock& block) {
  return absl::InvalidArgumentError(
      absl::StrCat(block.name, ": there is other memory of that name"));
}

}  // namespace

// [dirty]
absl::Status DriverWrites::sync(DirtySink& sink) {
  memory_.for_each_written(
      [&sink](uint64_t gpa, uint64_t size) { tell_dirty(gpa, size, sink); });
  return absl::OkStatus();
}
// [end]

VmMigration::VmMigration(Parts parts, bool no_drain)
    : parts_(parts), no_drain_(no_drain) {
  for (Device* const device : parts_.platform.devices()) {
    devices_.push_back(device->migration());
  }
  if (const DmaMemory* const memory = parts_.platform.driver_memory()) {
    driver_writes_.emplace(*memory);
  }
}

VmMigration::~VmMigration() = default;

// ---------------------------------------------------------------------------
// Memory
// ---------------------------------------------------------------------------

std::optional<RamBlock> VmMigration::block_at(uint64_t gpa) const {
  for (const GuestMemory::Piece& piece : parts_.pieces.pieces()) {
    if (piece.gpa != gpa) continue;
    return RamBlock{.id = static_cast<uint32_t>(piece.id),
                    .name = piece.name(),
                    .gpa = gpa,
                    .size = piece.size};
  }
  const DmaMemory* const driver = parts_.platform.driver_memory();
  if (driver == nullptr) return std::nullopt;
  for (const DmaMemory::Region& region : driver->regions()) {
    const std::optional<uint32_t> number = number_of(region.name, "dma");
    if (region.gpa != gpa || !number.has_value()) continue;
    return RamBlock{.id = kDriverBlock + *number,
                    .name = region.name,
                    .gpa = gpa,
                    .size = region.size};
  }
  return std::nullopt;
}

// [ram]
std::vector<MigrationRam> VmMigration::ram() {
  std::vector<MigrationRam> out;
  for (const MemorySection& section : parts_.memory.sections()) {
    std::optional<RamBlock> block = block_at(section.gpa);
    // A piece that is being removed is the guest's no more.
    if (!block.has_value()) continue;
    out.push_back({.id = block->id,
                   .name = std::move(block->name),
                   .gpa = section.gpa,
                   .size = section.size,
                   .region = section.region,
                   .offset_in_region = section.offset_in_region});
  }
  return out;
}
// [end]

absl::Status VmMigration::add_ram(const RamBlock& block) {
  uint64_t all = block.size;
  for (const MemorySection& section : parts_.memory.sections()) {
    all += section.size;
  }
  if (block.size > kMostMemory || all > kMostMemory) {
    return absl::ResourceExhaustedError(
        absl::StrCat(block.name, ": more than ", kMostMemory, " bytes in all"));
  }
  const std::optional<RamBlock> known = block_at(block.gpa);
  if (known.has_value()) {
    return *known == block ? absl::OkStatus() : occupied(block);
  }
  if (const auto id = number_of(block.name, "ram")) {
    return *id == block.id ? add_piece(block, *id) : occupied(block);
  }
  if (const auto number = number_of(block.name, "dma")) {
    return block.id == kDriverBlock + *number ? add_driver_memory(block)
                                              : occupied(block);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no memory of a guest is called ", block.name));
}

absl::Status VmMigration::add_piece(const RamBlock& block, uint64_t id) {
  // Nothing runs here that could be slow to take it: what can be wrong is
  // known at once.
  absl::Status now;
  const auto told = std::make_shared<absl::Status*>(&now);
  parts_.pieces.add({.id = id, .gpa = block.gpa, .size = block.size},
                    [told, weak = std::weak_ptr(self_)](absl::Status added) {
                      if (*told != nullptr) {
                        **told = std::move(added);
                      } else if (const auto self = weak.lock()) {
                        (*self)->memory_failure_.Update(added);
                      }
                    });
  *told = nullptr;
  return now;
}

absl::Status VmMigration::add_driver_memory(const RamBlock& block) {
  DmaMemory* const driver = parts_.platform.driver_memory();
  if (driver == nullptr) {
    return absl::UnimplementedError("a guest with a driver of its own");
  }
  return driver->add_region({.name = block.name,
                             .gpa = block.gpa,
                             .size = block.size,
                             .host = nullptr});
}

// ---------------------------------------------------------------------------
// Devices and the guest
// ---------------------------------------------------------------------------

Completion VmMigration::later(Completion done) {
  return [&loop = parts_.loop,
          done = std::move(done)](const absl::Status& status) mutable {
    loop.post([done = std::move(done), status]() mutable { done(status); });
  };
}

std::vector<MigrationDevice*> VmMigration::devices() {
  std::vector<MigrationDevice*> out;
  for (const auto& device : devices_) out.push_back(device.get());
  return out;
}

std::vector<DirtyProvider*> VmMigration::dirty_providers() {
  std::vector<DirtyProvider*> out = parts_.platform.dirty_providers();
  if (driver_writes_.has_value()) out.push_back(&*driver_writes_);
  return out;
}

// [guest]
void VmMigration::pause_guest(bool drain, Completion done) {
  parts_.pauser.pause(/*devices=*/false, drain && !no_drain_,
                      later(std::move(done)));
}

void VmMigration::resume_guest(Completion done) {
  for (Device* const device : parts_.platform.devices()) {
    device->guest_goes_on();
  }
  parts_.pauser.resume(later(std::move(done)));
}

absl::StatusOr<std::string> VmMigration::save_guest() {
  return parts_.platform.guest().save();
}

absl::Status VmMigration::load_guest(absl::string_view bytes) {
  VHOST_RETURN_IF_ERROR(memory_failure_);
  VHOST_RETURN_IF_ERROR(parts_.platform.guest().load(bytes));
  return parts_.platform.check_loaded();
}

void VmMigration::start_guest(Completion done) {
  Completion tell = later(std::move(done));
  for (Device* const device : parts_.platform.devices()) {
    device->guest_goes_on();
  }
  tell(start_ ? start_() : absl::InternalError("nobody starts a guest here"));
}
// [end]

}  // namespace vhost::minivm
