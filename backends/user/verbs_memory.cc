// SPDX-License-Identifier: Apache-2.0
//
// Guest memory, the dirty log and translations.
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backends/user/verbs.h"

namespace vhost::user {
namespace {

// The entries of a table that can be shared: those with a descriptor.
std::vector<MemoryTableEntry> shareable(const MemoryDiff& diff) {
  std::vector<MemoryTableEntry> out;
  if (diff.after == nullptr) return out;
  for (const MemoryTableEntry& entry : diff.after->entries()) {
    if (entry.fd.valid()) out.push_back(entry);
  }
  return out;
}

void encode_table(const MemoryDiff& diff, const Session& session,
                  Batch& batch) {
  const std::vector<MemoryTableEntry> table = shareable(diff);
  std::vector<FdRef> fds;
  for (const MemoryTableEntry& entry : table) fds.push_back(entry.fd);
  batch.request({StepKind::kMemoryTable, 0}, Request::kSetMemTable,
                memory_table_payload(table, session.gpa_addresses()),
                {.fds = fds});
}

void encode_slots(const MemoryDiff& diff, const Session& session,
                  Batch& batch) {
  const bool gpa = session.gpa_addresses();
  // ORDER: removals first, or a moved entry would overlap its old self.
  for (size_t i = diff.removed.size(); i-- > 0;) {
    if (!diff.removed[i].fd.valid()) continue;
    MemoryTableEntry entry = diff.removed[i];
    entry.mmap_offset = 0;  // The back-end ignores it.
    batch.request({StepKind::kMemoryRemove, static_cast<uint32_t>(i)},
                  Request::kRemMemReg, memory_region_payload(entry, gpa));
  }
  for (size_t i = 0; i < diff.added.size(); ++i) {
    const MemoryTableEntry& entry = diff.added[i];
    if (!entry.fd.valid()) continue;
    batch.request({StepKind::kMemoryAdd, static_cast<uint32_t>(i)},
                  Request::kAddMemReg, memory_region_payload(entry, gpa),
                  {.fds = std::span(&entry.fd, 1)});
  }
}

}  // namespace

absl::Status check_memory(const MemoryDiff& diff, const Session& session) {
  if (diff.empty()) return absl::OkStatus();
  if (session.has(kProtocolConfigureMemSlots)) {
    const size_t slots = diff.after != nullptr ? shareable(diff).size() : 0;
    if (slots <= session.memory_slots) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("memory table has ", slots, " entries, back-end takes ",
                     session.memory_slots));
  }
  if (diff.after == nullptr) {
    return absl::InvalidArgumentError("memory change without the whole table");
  }
  const size_t entries = shareable(diff).size();
  if (entries == 0) {
    return absl::InvalidArgumentError("no guest memory has a descriptor");
  }
  if (entries > wire::kMaxTableRegions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("memory table has ", entries,
                     " entries, SET_MEM_TABLE takes ", wire::kMaxTableRegions));
  }
  return absl::OkStatus();
}

void encode_memory(const MemoryDiff& diff, const Session& session,
                   Batch& batch) {
  if (diff.empty()) return;
  if (session.has(kProtocolConfigureMemSlots)) {
    encode_slots(diff, session, batch);
  } else {
    encode_table(diff, session, batch);
  }
  batch.operation().memory = diff.after;
  for (const MemoryTableEntry& entry : diff.added) {
    batch.operation().memory_added.push_back(entry.gpa);
  }
}

absl::Status encode(const UpdateMemory& verb, const Session& session,
                    Batch& batch) {
  if (absl::Status s = check_memory(verb.diff, session); !s.ok()) return s;
  encode_memory(verb.diff, session, batch);
  return absl::OkStatus();
}

absl::Status check_log(const LogArea& log, const Session& session) {
  if (log.size == 0) return absl::OkStatus();
  if (absl::Status s = need(session, kProtocolLogShmfd); !s.ok()) return s;
  if (!log.fd.valid()) {
    return absl::InvalidArgumentError("dirty log without a descriptor");
  }
  return absl::OkStatus();
}

void encode_log(const LogArea& log, Batch& batch) {
  if (log.size == 0) return;  // There is no message for "no log".
  batch.request(
      {StepKind::kLog, 0}, Request::kSetLogBase,
      Payload(wire::Log{.mmap_size = log.size, .mmap_offset = log.mmap_offset}),
      {.fds = std::span(&log.fd, 1)});
}

absl::Status encode(const SetLog& verb, const Session& session, Batch& batch) {
  if (absl::Status s = need(session, kProtocolLogShmfd); !s.ok()) return s;
  if (absl::Status s = check_log(verb.log, session); !s.ok()) return s;
  encode_log(verb.log, batch);
  return absl::OkStatus();
}

absl::Status check_iotlb(const UpdateIotlb& update, const Session& session) {
  if (!session.iommu()) {
    return absl::UnimplementedError("ACCESS_PLATFORM was not negotiated");
  }
  const IotlbEntry& entry = update.entry;
  if (entry.size != 0 && entry.size - 1 <= UINT64_MAX - entry.iova) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("translation of ", entry.size,
                                                 " bytes at iova 0x",
                                                 absl::Hex(entry.iova)));
}

void encode_iotlb(Step step, const UpdateIotlb& update, const Session& session,
                  Batch& batch) {
  const bool invalidate = update.entry.access == IotlbAccess::kNone;
  wire::Iotlb msg = {};
  msg.iova = update.entry.iova;
  msg.size = update.entry.size;
  msg.permissions = static_cast<uint8_t>(update.entry.access);
  msg.type = invalidate ? wire::kIotlbInvalidate : wire::kIotlbUpdate;
  if (!invalidate) {
    msg.user_address = session.gpa_addresses() ? update.entry.gpa : update.user;
  }
  batch.request(step, Request::kIotlbMsg, Payload(msg));
}

absl::Status encode(const UpdateIotlb& verb, const Session& session,
                    Batch& batch) {
  if (absl::Status s = check_iotlb(verb, session); !s.ok()) return s;
  encode_iotlb({StepKind::kIotlb, 0}, verb, session, batch);
  return absl::OkStatus();
}

}  // namespace vhost::user
