// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_MEMORY_H_
#define VHOSTDEV_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// A piece of host memory that backs guest memory: QEMU's RAMBlock and the
// MemoryRegion over it.  Shared by reference count; the last reference releases
// the host mapping, so a region stays mapped while any back-end may still use
// it.  Immutable after construction: any thread may read it.
class MemoryRegion {
 public:
  struct Options {
    std::string name;
    std::byte* host = nullptr;  // First byte in this process.
    uint64_t size = 0;          // Bytes; a multiple of page_size.
    FdRef fd;                   // What backs it; not valid for private memory.
    uint64_t fd_offset = 0;     // Where in `fd` the first byte lies.
    uint64_t page_size = 4096;  // Of the backing: 2 MiB on hugetlbfs.
    // Runs when the last reference goes, on whatever thread that is, an
    // Executor's included; unmaps, closes `fd`.  May be empty.
    absl::AnyInvocable<void()> release;
  };

  explicit MemoryRegion(Options options);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  // `size` bytes of zeroed shared memory from a new memfd, mapped read-write;
  // unmapped and closed with the last reference.  `size` is rounded up to the
  // page size.  Errors: kResourceExhausted, kInvalidArgument (size 0).
  static absl::StatusOr<std::shared_ptr<MemoryRegion>> create_memfd(
      absl::string_view name, uint64_t size);

  // The same without a descriptor: private anonymous memory, which vhost-user
  // cannot share.
  static absl::StatusOr<std::shared_ptr<MemoryRegion>> create_private(
      absl::string_view name, uint64_t size);

  const std::string& name() const { return options_.name; }
  std::byte* host() const { return options_.host; }
  uint64_t size() const { return options_.size; }
  FdRef fd() const { return options_.fd; }
  uint64_t fd_offset() const { return options_.fd_offset; }
  uint64_t page_size() const { return options_.page_size; }

 private:
  Options options_;
};

// A range of guest physical memory and what backs it: QEMU's
// MemoryRegionSection.  A value; holds a reference to its region.
struct MemorySection {
  uint64_t gpa = 0;
  uint64_t size = 0;  // Bytes.
  std::shared_ptr<const MemoryRegion> region;
  uint64_t offset_in_region = 0;

  bool ram = true;  // Not MMIO.
  // ROM, or a ROM device in read mode: a back-end may not write it.
  bool readonly = false;
  // Never joined with a neighbour, so that unplugging it removes one slot
  // (virtio-mem's dynamic memslots).
  bool unmergeable = false;
  // Some client other than migration watches writes (a frame buffer that is
  // display-tracked): back-ends must not write behind its back.
  bool write_tracked = false;

  std::byte* host() const { return region->host() + offset_in_region; }
};

// Follows the memory of an AddressSpace.  A *delta*: only what changes between
// begin() and commit() is delivered; region_nop (QEMU's "still there") is
// accepted and ignored.  All calls come on the loop's thread.
// QEMU: MemoryListener.
class MemoryListener {
 public:
  virtual ~MemoryListener() = default;

  virtual void begin() {}
  virtual void region_add(const MemorySection& section) = 0;
  virtual void region_del(const MemorySection& section) = 0;
  virtual void region_nop(const MemorySection& section) {
    static_cast<void>(section);
  }

  // The transaction is complete.  An error says that this listener could not
  // follow (the change stands all the same); nothing here aborts the VMM.
  virtual absl::Status commit() { return absl::OkStatus(); }

  // The dirty log: on, off, and the dirty pages of one section taken from it.
  // A VMM may call log_sync from a thread of its own (VhostContext).
  virtual absl::Status log_global_start() { return absl::OkStatus(); }
  virtual void log_global_stop() {}
  virtual absl::Status log_sync(const MemorySection& section) {
    static_cast<void>(section);
    return absl::OkStatus();
  }
};

// The RAM of one guest: sections that do not overlap.  A VMM may use this one
// or drive the listener (VhostContext) from its own.  Loop thread only, except
// that translate() may also be called from any thread while no transaction
// runs.
//
// Changes are made in transactions; commit() hands all listeners one delta.
// add() and remove() outside begin()/commit() are transactions of their own.
class AddressSpace {
 public:
  AddressSpace();
  ~AddressSpace();
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  void begin();

  // Errors: kInvalidArgument  empty, wraps past 2^64, outside its region, or
  //                           overlaps another section.
  absl::Status add(MemorySection section);

  // Removes the section that starts at `gpa`.
  // Errors: kInvalidArgument  none does.
  absl::Status remove(uint64_t gpa);

  // Ends the transaction.  The first error of a listener, if any; the change
  // stands.  A transaction that changed nothing tells nobody.
  absl::Status commit();

  // The host address of guest range [gpa, gpa + size), or null unless one
  // section holds all of it.
  std::byte* translate(uint64_t gpa, uint64_t size) const;

  // The section that holds `gpa`, or null.  Valid until the next change.
  const MemorySection* find(uint64_t gpa) const;

  // All sections, lowest address first.
  std::vector<MemorySection> sections() const;

  // Brings `listener` up to date (begin, region_add of every section, commit)
  // and keeps it so until remove_listener.  The status is its commit()'s.
  absl::Status add_listener(MemoryListener* listener);
  void remove_listener(MemoryListener* listener);

  // hw/virtio's own side.
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// One entry of the table a back-end is told: guest memory after filtering,
// alignment and merging.
struct MemoryTableEntry {
  uint64_t gpa = 0;
  uint64_t size = 0;
  uint64_t user = 0;         // Address in this process.
  FdRef fd;                  // Not valid for private memory.
  uint64_t mmap_offset = 0;  // Where in `fd` the entry begins.
  bool readonly = false;
  std::shared_ptr<const MemoryRegion> region;

  // Whether a back-end that has `b` would have to be told of `a`.
  friend bool operator==(const MemoryTableEntry& a, const MemoryTableEntry& b) {
    return a.gpa == b.gpa && a.size == b.size && a.user == b.user &&
           a.region == b.region && a.readonly == b.readonly;
  }
};

// How a back-end wants its table made.  Devices with equal policies share one
// snapshot and its diffs.
struct MemoryPolicy {
  bool fd_only = false;     // vhost-user: private memory cannot be shared.
  bool align_host = false;  // Out to the page size of the host address.
  bool align_iova = false;  // In to the IOVA page (vDPA).
  bool merge = true;        // Join sections that continue each other.
  bool include_readonly = false;

  friend bool operator==(const MemoryPolicy&, const MemoryPolicy&) = default;
};

// An immutable table, numbered by generation: `entries()` is complete and
// sorted by address.  It keeps its regions referenced.  May be read from any
// thread.
class MemorySnapshot {
 public:
  virtual ~MemorySnapshot() = default;
  virtual uint64_t generation() const = 0;
  virtual size_t size() const = 0;
  // Built on first use: cost O(size) once.
  virtual std::span<const MemoryTableEntry> entries() const = 0;
  // The entry that holds all of [gpa, gpa + size), or null.  O(log size).
  virtual const MemoryTableEntry* find(uint64_t gpa, uint64_t size) const = 0;
};

// What turns one table into another.  Removals come first, then additions; an
// entry that changed in any way is in both.
struct MemoryDiff {
  std::vector<MemoryTableEntry> removed;
  std::vector<MemoryTableEntry> added;
  // The whole table afterwards, for back-ends that take only whole tables.
  std::shared_ptr<const MemorySnapshot> after;

  bool empty() const { return removed.empty() && added.empty(); }
};

}  // namespace vhost

#endif  // VHOSTDEV_MEMORY_H_
