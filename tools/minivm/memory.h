// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_MEMORY_H_
#define TOOLS_MINIVM_MEMORY_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
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

    std::string name() const;  // "ram0", by its id.
  };

  // Both outlive this.
  GuestMemory(AddressSpace& memory, VhostContext& context, bool hugepages);

  // The piece from 0 on, `size` bytes; before there are devices.
  // Errors: kResourceExhausted  not enough (huge) pages.
  absl::Status create(uint64_t size);

  // The pieces of another VM, under their ids and at their places; one of them
  // is the one that stays.  Before there are devices, in place of create().
  // All or nothing.
  // Errors: kInvalidArgument    not pieces of one VM: an id that is there
  //                             twice, no multiple of the page size, a place
  //                             where none can be.
  //         kResourceExhausted  as create().
  absl::Status create(std::span<const Piece> pieces);

  // Adds a piece that another VM has added, under its id and at its place.
  // Errors: as add(), and as create() of pieces.
  void add(const Piece& piece, absl::AnyInvocable<void(absl::Status)> done);

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
  absl::StatusOr<Piece> plug(uint64_t id, uint64_t gpa, uint64_t size);
  absl::Status check(const Piece& piece) const;
  void settle(const Piece& piece,
              absl::AnyInvocable<void(absl::StatusOr<Piece>)> done);
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
