// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_MEMORY_H_
#define TESTS_FAKES_MODEL_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/testing/model_device.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// A shared, writable mapping of part of a file; unmapped when destroyed.
class ModelMapping {
 public:
  // Errors: kInvalidArgument  `size` is 0, the range is not in the file, or it
  //                           cannot be mapped.
  static absl::StatusOr<std::shared_ptr<ModelMapping>> map(FdRef file,
                                                           uint64_t offset,
                                                           uint64_t size);
  ModelMapping(void* base, size_t length, std::byte* data)
      : base_(base), length_(length), data_(data) {}
  ~ModelMapping();
  ModelMapping(const ModelMapping&) = delete;
  ModelMapping& operator=(const ModelMapping&) = delete;

  std::byte* data() const { return data_; }

 private:
  void* base_;
  size_t length_;
  std::byte* data_;
};

// One region of guest memory as a front-end describes it.
struct ModelRegion {
  uint64_t gpa = 0;
  uint64_t size = 0;  // Bytes.
  uint64_t user = 0;
  uint64_t mmap_offset = 0;
};

// The guest memory that a front-end has shown us.  A value: a copy shares the
// mappings.
class ModelMemory {
 public:
  // Errors: kInvalidArgument  an empty region, one that wraps around, overlaps
  //                           another or is larger than its file.
  absl::Status add(const ModelRegion& region, FdRef file);
  // Errors: kNotFound  there is no such region.
  absl::Status remove(const ModelRegion& region);
  size_t regions() const { return regions_.size(); }

  // Where the `size` bytes at user address `user` are mapped; null unless they
  // lie in one region.
  std::byte* at_user(uint64_t user, uint64_t size) const;

  // Appends the `size` bytes at guest address `gpa`, in as many pieces as they
  // have regions.  False if some are in none; `out` is then partly filled.
  bool at_guest(uint64_t gpa, uint32_t size,
                std::vector<ModelSegment>& out) const;

 private:
  struct Mapped {
    ModelRegion region;
    std::shared_ptr<ModelMapping> mapping;
  };
  std::vector<Mapped> regions_;
};

// The dirty log: one bit per 4 KiB page of guest memory.
// Source: vhost-user.rst, "Migration".
class ModelLog {
 public:
  static constexpr uint64_t kPageSize = 4096;

  absl::Status map(FdRef file, uint64_t offset, uint64_t size);
  // To be signalled when something was marked.
  void notify(UniqueFd changed) { changed_ = std::move(changed); }

  // Marks the pages of [gpa, gpa + size).
  // Errors: kOutOfRange  the log does not reach so far, or there is none.
  absl::Status mark(uint64_t gpa, uint64_t size);
  // Whether mark() would succeed.
  absl::Status check(uint64_t gpa, uint64_t size) const;

 private:
  std::shared_ptr<ModelMapping> mapping_;
  uint64_t size_ = 0;  // Bytes of bitmap.
  UniqueFd changed_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_MEMORY_H_
