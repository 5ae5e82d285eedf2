// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/layout.h"
#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"

namespace vhost::minivm {
namespace {

constexpr uint64_t kSmallPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kMostAdded = uint64_t{1} << 40;  // Bytes of one piece.
constexpr uint64_t kMostIds = uint64_t{1} << 32;

// `size` bytes of huge pages, all of them there.
absl::StatusOr<std::shared_ptr<MemoryRegion>> make_huge_region(
    const std::string& name, uint64_t size) {
  auto fd = std::make_shared<UniqueFd>(
      ::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB));
  if (!fd->valid()) return errno_status(errno, "memfd_create of huge pages");
  if (::ftruncate(fd->get(), static_cast<off_t>(size)) != 0) {
    return errno_status(errno, "ftruncate of huge pages");
  }
  // MAP_POPULATE: a page that is not there would be a SIGBUS later.
  void* const host = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_POPULATE, fd->get(), 0);
  if (host == MAP_FAILED) {
    return errno_status(errno,
                        absl::StrCat("mmap of ", size, " bytes of huge pages"));
  }
  return std::make_shared<MemoryRegion>(MemoryRegion::Options{
      .name = name,
      .host = static_cast<std::byte*>(host),
      .size = size,
      .fd = FdRef(*fd),
      .fd_offset = 0,
      .page_size = kHugePage,
      .release = [fd, host, size] { ::munmap(host, size); }});
}

}  // namespace

GuestMemory::GuestMemory(AddressSpace& memory, VhostContext& context,
                         bool hugepages)
    : memory_(memory), context_(context), hugepages_(hugepages) {}

absl::Status GuestMemory::create(uint64_t size) {
  return annotate(plug(next_id_, 0, size).status(), "memory");
}

absl::Status GuestMemory::create(std::span<const Piece> pieces) {
  absl::Status status;
  if (pieces.empty() || pieces[0].id != 0 || !pieces_.empty()) {
    status = absl::InvalidArgumentError("no piece that stays, or there is one");
  }
  for (const Piece& piece : pieces) {
    if (status.ok()) status = check(piece);
    if (status.ok()) {
      status = plug(piece.id, piece.gpa, piece.size).status();
    }
  }
  if (status.ok()) return status;
  for (const auto& [id, piece] : pieces_) {
    memory_.remove(piece.gpa).IgnoreError();  // The first error is told.
  }
  pieces_.clear();
  return annotate(status, "memory");
}

absl::Status GuestMemory::check(const Piece& piece) const {
  const bool fits = piece.id == 0 ? piece.gpa == 0 && piece.size <= kMaxRam
                                  : piece.gpa >= kAddedMemoryBase &&
                                        piece.gpa <= kMostAdded &&
                                        piece.gpa % kSmallPage == 0;
  if (fits && piece.id < kMostIds && pieces_.count(piece.id) == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(piece.name(), " of ", piece.size, " bytes at ",
                   absl::Hex(piece.gpa), ": is there, or cannot be"));
}

std::string GuestMemory::Piece::name() const { return absl::StrCat("ram", id); }

uint64_t GuestMemory::find_gap(uint64_t size) const {
  uint64_t gpa = kAddedMemoryBase;
  // Sections are sorted; what was removed may stay in use, but not there.
  for (const MemorySection& section : memory_.sections()) {
    if (section.gpa + section.size <= gpa) continue;
    if (section.gpa >= gpa && section.gpa - gpa >= size) break;
    const uint64_t end = section.gpa + section.size;
    gpa = std::max(gpa, (end + kHugePage - 1) / kHugePage * kHugePage);
  }
  return gpa;
}

absl::StatusOr<GuestMemory::Piece> GuestMemory::plug(uint64_t id, uint64_t gpa,
                                                     uint64_t size) {
  const uint64_t page = hugepages_ ? kHugePage : kSmallPage;
  if (size == 0 || size % page != 0 || size > kMostAdded) {
    return absl::InvalidArgumentError(
        absl::StrCat(size, " bytes: not a multiple of ", page, " from ", page,
                     " to ", kMostAdded));
  }
  const Piece piece = {.id = id, .gpa = gpa, .size = size};
  const std::string name = piece.name();
  absl::StatusOr<std::shared_ptr<MemoryRegion>> region =
      hugepages_ ? make_huge_region(name, size)
                 : MemoryRegion::create_memfd(name, size);
  if (!region.ok()) return region.status();
  MemorySection section;
  section.gpa = gpa;
  section.size = size;
  section.region = *std::move(region);
  // So that a piece which is removed is one that a back-end knows.
  section.unmergeable = true;
  VHOST_RETURN_IF_ERROR(context_.can_add(section));
  const absl::Status added = memory_.add(section);
  if (!added.ok()) {
    memory_.remove(gpa).IgnoreError();  // The error is the addition's.
    // Taken here: it is no news of the next change.
    context_.when_memory_settled([](const absl::Status&) {});
    return added;
  }
  next_id_ = std::max(next_id_, id + 1);
  pieces_.emplace(id, piece);
  return piece;
}

// [add]
void GuestMemory::add(uint64_t size,
                      absl::AnyInvocable<void(absl::StatusOr<Piece>)> done) {
  absl::StatusOr<Piece> piece = plug(next_id_, find_gap(size), size);
  if (!piece.ok()) return done(annotate(piece.status(), "add memory"));
  settle(*piece, std::move(done));
}

void GuestMemory::settle(const Piece& piece,
                         absl::AnyInvocable<void(absl::StatusOr<Piece>)> done) {
  context_.when_memory_settled([this, added = piece, done = std::move(done)](
                                   const absl::Status& settled) mutable {
    if (settled.ok()) return done(added);
    // What a removal that follows an error says adds nothing.
    memory_.remove(added.gpa).IgnoreError();
    context_.when_memory_settled([](const absl::Status&) {});
    pieces_.erase(added.id);
    done(annotate(settled, "add memory"));
  });
}
// [end]

void GuestMemory::add(const Piece& piece,
                      absl::AnyInvocable<void(absl::Status)> done) {
  absl::Status status = check(piece);
  if (status.ok() && piece.id == 0) {
    status = absl::InvalidArgumentError("the piece that stays");
  }
  if (status.ok()) status = plug(piece.id, piece.gpa, piece.size).status();
  if (!status.ok()) return done(annotate(status, "add memory"));
  settle(piece,
         [done = std::move(done)](const absl::StatusOr<Piece>& added) mutable {
           done(added.status());
         });
}

// [remove]
void GuestMemory::remove(uint64_t id,
                         absl::AnyInvocable<void(absl::Status)> done) {
  const std::string what = absl::StrCat("remove memory ", id);
  const auto found = pieces_.find(id);
  if (found == pieces_.end()) {
    return done(absl::NotFoundError(absl::StrCat(what, ": no such piece")));
  }
  if (id == 0 || found->second.removing) {
    return done(absl::FailedPreconditionError(absl::StrCat(
        what, id == 0 ? ": the first piece stays" : ": under way already")));
  }
  found->second.removing = true;
  absl::Status removed = memory_.remove(found->second.gpa);
  context_.when_memory_settled(
      [this, id, what, removed = std::move(removed),
       done = std::move(done)](const absl::Status& settled) mutable {
        pieces_.erase(id);
        removed.Update(settled);
        done(annotate(removed, what));
      });
}
// [end]

std::vector<GuestMemory::Piece> GuestMemory::pieces() const {
  std::vector<Piece> out;
  for (const auto& [id, piece] : pieces_) out.push_back(piece);
  return out;
}

}  // namespace vhost::minivm
