// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MEMORY_H_
#define TOOLS_MINIVM_MEMORY_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/memory.h"
#include "vhostdev/vhost_context.h"

namespace vhost::minivm {

// The RAM of a VM: a piece from 0 on that stays, and pieces that are added from
// kAddedMemoryBase on and removed again while the VM runs.  Loop thread.
class GuestMemory {
 public:
  struct Piece {
    uint64_t id = 0;  // Never used again.  0: the one that stays.
    uint64_t gpa = 0;
    uint64_t size = 0;      // Bytes.
    bool removing = false;  // Somebody still has it.
  };

  // Both outlive this.
  GuestMemory(AddressSpace& memory, VhostContext& context, bool hugepages);

  // The piece from 0 on, `size` bytes; before there are devices.
  // Errors: kResourceExhausted  not enough (huge) pages.
  absl::Status create(uint64_t size);

  // Adds `size` bytes if every device can take them; `done` when they have.
  // Where a device refuses all the same, the piece is taken out again.
  // Errors: kInvalidArgument    not a multiple of the page size.
  //         kResourceExhausted  no slot left, of a back-end that is named, or
  //                             no memory.
  void add(uint64_t size, absl::AnyInvocable<void(absl::StatusOr<Piece>)> done);

  // Removes a piece; `done` when nobody has it any more.
  // Errors: kNotFound            there is none of that id.
  //         kFailedPrecondition  it is the one that stays, or is being removed.
  void remove(uint64_t id, absl::AnyInvocable<void(absl::Status)> done);

  std::vector<Piece> pieces() const;

 private:
  absl::StatusOr<Piece> plug(uint64_t gpa, uint64_t size);
  // The lowest place for `size` bytes.
  uint64_t find_gap(uint64_t size) const;

  AddressSpace& memory_;
  VhostContext& context_;
  const bool hugepages_;
  std::map<uint64_t, Piece> pieces_;  // By id.
  uint64_t next_id_ = 0;
};

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_MEMORY_H_
