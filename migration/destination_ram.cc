// SPDX-License-Identifier: Apache-2.0
// D2: memory.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/describe.h"
#include "migration/destination.h"
#include "migration/ram_extent.h"
#include "migration/ram_sender.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Bytes of zeros that are made in one turn.
constexpr uint64_t kZerosOfATurn = 4 << 20;

// Memory that is zero already is left alone: it may be memory that nobody has
// had to find yet (private, for a file has holes).
void make_zero(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto page = bytes.first(std::min<size_t>(bytes.size(), kLogPageSize));
    if (!is_zero(page)) std::memset(page.data(), 0, page.size());
    bytes = bytes.subspan(page.size());
  }
}

// Goes on at `at` until `end`, as far as a turn goes; whether it got there.
bool make_zeros(const MigrationRam& block, uint64_t& at, uint64_t end) {
  for (uint64_t looked = 0; at != end && looked < kZerosOfATurn;) {
    RamExtent here = ram_extent(block, at, end - at);
    if (!here.hole) {
      here.size = std::min(here.size, kZerosOfATurn - looked);
      make_zero({block.host() + at, here.size});
      looked += here.size;
    }
    at += here.size;
  }
  return at == end;
}

}  // namespace

absl::Status MigrationDestination::Impl::refresh_ram() {
  std::map<uint32_t, MigrationRam> blocks;
  for (MigrationRam& block : vmm_.ram()) {
    VHOST_RETURN_IF_ERROR(check_ram(block));
    const uint32_t id = block.id;
    if (!blocks.emplace(id, std::move(block)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("ram block ", id, ": the id is another block's too"));
    }
  }
  blocks_ = std::move(blocks);
  return absl::OkStatus();
}

// Why some of it could not be; what is missing is among the differences.
std::vector<std::string> MigrationDestination::Impl::add_missing_ram(
    const Manifest& theirs) {
  std::vector<std::string> out;
  for (const RamBlock& block : theirs.blocks) {
    if (blocks_.contains(block.id)) continue;
    const absl::Status added = vmm_.add_ram(block);
    if (added.ok() || absl::IsUnimplemented(added)) continue;
    out.push_back(absl::StrCat("RAM block ", block.id, " (", block.name,
                               "): ", added.message()));
  }
  return out;
}

absl::StatusOr<const MigrationRam*> MigrationDestination::Impl::block_of(
    const StreamRecord& record) const {
  const auto found = blocks_.find(record.id);
  if (found != blocks_.end()) return &found->second;
  return absl::DataLossError(absl::StrCat(
      to_string(record.type), ": there is no ram block ", record.id));
}

absl::Status MigrationDestination::Impl::take_ram_blocks(
    const StreamRecord& record) {
  const auto added = decode_ram_blocks(record.payload);
  VHOST_RETURN_IF_ERROR(added.status());
  for (const RamBlock& block : *added) {
    const std::string what = absl::StrCat("ram block ", block.name);
    if (blocks_.contains(block.id)) {
      return absl::DataLossError(absl::StrCat(what, ": is there already"));
    }
    if (blocks_.size() >= kMaxRamBlocks) {
      return absl::ResourceExhaustedError(
          absl::StrCat(what, ": more than ", kMaxRamBlocks, " blocks"));
    }
    VHOST_RETURN_IF_ERROR(annotate(vmm_.add_ram(block), what));
    VHOST_RETURN_IF_ERROR(refresh_ram());
    const auto found = blocks_.find(block.id);
    if (found == blocks_.end() || describe(found->second) != block) {
      return absl::InternalError(
          absl::StrCat(what, ": was not added as it was asked for"));
    }
  }
  report();
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_pages(
    const StreamRecord& record) {
  const auto block = block_of(record);
  VHOST_RETURN_IF_ERROR(block.status());
  const auto pages =
      decode_ram_pages(record.payload, kLogPageSize, (*block)->size);
  VHOST_RETURN_IF_ERROR(pages.status());
  std::memcpy((*block)->host() + pages->first_page * kLogPageSize,
              pages->bytes.data(), pages->bytes.size());
  moved_ += pages->bytes.size();
  report();
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_zeros(
    const StreamRecord& record) {
  const auto block = block_of(record);
  VHOST_RETURN_IF_ERROR(block.status());
  const auto pages =
      decode_ram_zero_pages(record.payload, kLogPageSize, (*block)->size);
  VHOST_RETURN_IF_ERROR(pages.status());
  uint64_t at = pages->first_page * kLogPageSize;
  const uint64_t size = pages->count * kLogPageSize;
  const uint64_t end = at + size;
  moved_ += size;
  zeros_ += size;
  report();
  if (make_zeros(**block, at, end)) return absl::OkStatus();
  run([block = **block, at, end]() mutable -> absl::StatusOr<bool> {
    return make_zeros(block, at, end);
  });
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_round_end(
    const StreamRecord& record) {
  const auto round = decode_round_end(record.payload);
  VHOST_RETURN_IF_ERROR(round.status());
  board_.update([&](MigrationProgress& p) {
    p.rounds = round->round + 1;
    p.remaining = round->dirty_bytes;
  });
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_hash(const StreamRecord& record) {
  const auto block = block_of(record);
  VHOST_RETURN_IF_ERROR(block.status());
  const auto theirs = decode_ram_hash(record.payload);
  VHOST_RETURN_IF_ERROR(theirs.status());
  auto hasher = std::make_shared<RamHasher>(
      std::map<uint32_t, MigrationRam>{{record.id, **block}});
  run([hasher, theirs = *theirs,
       name = (*block)->name]() -> absl::StatusOr<bool> {
    const auto ours = hasher->step();
    if (!ours.has_value()) return false;
    if (ours->hash == theirs) return true;
    return absl::DataLossError(absl::StrCat(
        "ram block ", name, ": is not what the source has: a page is missing"));
  });
  return absl::OkStatus();
}

absl::Status MigrationDestination::Impl::take_switchover() {
  for (const Device& entry : devices_) {
    const VhostDev& dev = entry.device->dev();
    if (dev.state() == DeviceState::kReady) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(entry.device->name(), ": is ", to_string(dev.state()),
                     ": ", dev.broken_status().message()));
  }
  board_.enter(Phase::kSwitchover);
  return answer(RecordType::kReady);
}

// ---------------------------------------------------------------------------
// Long work
// ---------------------------------------------------------------------------

void MigrationDestination::Impl::run(Job job) {
  job_ = std::move(job);
  channel_->set_reading(false);
  run_job();
}

void MigrationDestination::Impl::run_job() {
  loop_.post([weak = weak_from_this(), attempt = attempt_] {
    const std::shared_ptr<Impl> self = weak.lock();
    if (self == nullptr || self->attempt_ != attempt) return;
    if (self->job_ == nullptr) return;
    const absl::StatusOr<bool> over = self->job_();
    if (over.ok() && !*over) return self->run_job();
    self->job_ = nullptr;
    if (!over.ok()) return self->fail(over.status());
    self->read_if_wanted();
  });
}

void MigrationDestination::Impl::read_if_wanted() {
  if (channel_ == nullptr || job_ != nullptr) return;
  for (const Device& entry : devices_) {
    if (!entry.discards && entry.state != nullptr && entry.state->full()) {
      return;
    }
  }
  stuck_.reset();
  // Of a file the commit is read when all before it is loaded.
  if (from_ == From::kFile && state_complete_ && !prepared_) return;
  channel_->set_reading(true);
}

}  // namespace vhost
