// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_FS_CLIENT_H_
#define VHOSTDEV_FS_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhostdev/dma_memory.h"
#include "vhostdev/features.h"
#include "vhostdev/virtio_driver.h"

namespace vhost {

// What FsClient can make use of.
inline constexpr FeatureSet kFsWantedFeatures{
    kFeatureEventIdx, kFeatureIndirectDesc, kFeatureVersion1};

// Queues in front of the request queues: queue 0 takes what must not wait
// behind requests.  For VirtioDriver::StartOptions::fixed.
inline constexpr uint32_t kFsFixedQueues = 1;

// The node that every path begins at.
inline constexpr uint64_t kFsRootNode = 1;

// Bytes of the longest name of a file, without its folder.
inline constexpr size_t kFsMaxName = 255;

// What FUSE_INIT agreed on.
struct FsSession {
  uint32_t major = 0;
  uint32_t minor = 0;             // The lower of both sides'.
  uint32_t flags = 0;             // FUSE_* of <linux/fuse.h>: what both can do.
  uint32_t max_read = 0;          // Bytes of one read.
  uint32_t max_write = 0;         // Bytes of one write.
  uint32_t max_readahead = 0;     // Bytes.
  uint32_t max_background = 0;    // Requests in the background.
  uint32_t time_granularity = 0;  // Nanoseconds.
};

// Source: <linux/fuse.h>, fuse_attr.
struct FsAttributes {
  uint64_t inode = 0;
  uint64_t size = 0;    // Bytes.
  uint64_t blocks = 0;  // Of 512 bytes.
  uint64_t mtime = 0;   // Seconds since 1970.
  uint32_t mtime_ns = 0;
  uint32_t mode = 0;  // As stat() has it.
  uint32_t links = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

// A file or folder.  The device keeps it until every lookup that returned it
// is forgotten.
struct FsNode {
  uint64_t id = 0;
  uint64_t generation = 0;
  FsAttributes attributes;
};

enum class FsOp : uint8_t {
  kInit,  // What create() does; not for submit().
  kLookup,
  kGetAttributes,
  kOpen,  // For reading.
  kRead,
  kRelease,
  kForget,
};
// "lookup", "read", ...
absl::string_view to_string(FsOp op);

struct FsRequest {
  FsOp op = FsOp::kLookup;
  uint64_t node = kFsRootNode;
  absl::string_view name = {};  // Lookup: one name, no path.
  uint64_t handle = 0;          // Read, release: from an open.
  uint64_t offset = 0;          // Read: bytes.
  uint64_t lookups = 1;         // Forget: how many of them.
  // Read.  The data stays the device's until the completion; the span itself,
  // and the name, may go when submit() returns.
  std::span<const DmaSpan> buffers = {};
  uint64_t cookie = 0;
};

struct FsCompletion {
  uint64_t cookie = 0;
  // OK; kNotFound, kPermissionDenied, kUnimplemented, kAborted (all others):
  // the error of the file system, which is in the text; kDataLoss: no sense in
  // the answer; kUnavailable: the back-end died; kDeadlineExceeded: nothing
  // completed for stall_timeout.  After the last two the device may yet write
  // to the buffers (DmaBuffer::abandon).
  absl::Status status;
  FsNode node;          // Lookup; get-attributes: only the attributes.
  uint64_t handle = 0;  // Open.
  uint32_t bytes = 0;   // Read; fewer than asked for: the end of the file.
};

// A client of a file system that a device shares: requests over the queues of
// a driver, from FUSE_INIT on.  It reads; it does not write.  Every request
// that submit() took completes exactly once, whatever becomes of the back-end.
//
// The device is not trusted: an answer with a wrong number, length, error or
// node is kDataLoss.
//
// Thread: one thread owns the client and its queues.
//
// Source: VIRTIO 1.3, "File System Device"; <linux/fuse.h>.
class FsClient {
 public:
  struct Options {
    uint32_t depth = 32;  // Requests in flight per queue, at most.
    // Requests in flight and none completed for this long: wait() gives the
    // back-end up.  Time without back-end (VirtioDriver::Options::reconnect)
    // does not count.
    Duration stall_timeout = std::chrono::seconds(5);
    // Who asks, as the device is told.
    uint32_t uid = 0;
    uint32_t gid = 0;
    uint32_t pid = 0;
  };

  // Takes every queue of `driver`, which is running with kFsFixedQueues and
  // outlives the client, and sends FUSE_INIT.
  // Errors: kInvalidArgument   depth 0, rings too small for one request, no
  //                            request queue, no call notifiers.
  //         kUnimplemented     the device speaks another FUSE than 7.23 or
  //                            later.
  //         as FsCompletion, VirtioDriver::acquire and DmaMemory::allocate.
  static absl::StatusOr<std::unique_ptr<FsClient>> create(
      VirtioDriver& driver, const Options& options);

  // The same with queues that the caller acquired, on the calling thread, queue
  // 0 first; and without FUSE_INIT: `session` was agreed on earlier and the
  // device still knows it.  Loop thread (it allocates).
  static absl::StatusOr<std::unique_ptr<FsClient>> create(
      VirtioDriver& driver, std::vector<QueueHandle> queues,
      const FsSession& session, const Options& options);

  // Requests in flight are forgotten: stop the driver first or wait for them.
  ~FsClient();
  FsClient(const FsClient&) = delete;
  FsClient& operator=(const FsClient&) = delete;

  const FsSession& session() const;
  // Request queues.
  uint32_t queue_count() const;
  // Requests in flight on all queues.
  uint32_t in_flight() const;

  // Puts `request` on the next queue that has room; forget on queue 0.  The
  // device does not see it before kick(): requests travel in batches.
  // Errors: kInvalidArgument    a name that is none, no data or more than
  //                             max_read, too many buffers for the ring, what
  //                             the operation does not take.
  //         kResourceExhausted  full: poll() or wait(), then again.
  //         kUnavailable, kDataLoss, kDeadlineExceeded  the device is given up.
  absl::Status submit(const FsRequest& request);

  // Shows the device what was submitted and notifies it, where it wants to
  // know.
  absl::Status kick();

  // Takes completions, at most out.size(); the number.  Never waits.
  size_t poll(std::span<FsCompletion> out);

  // As poll(), but kicks and then sleeps until there is one at least.  0 only
  // if nothing is in flight.  Turns the driver's loop meanwhile
  // (VirtioDriver::turn_loop).
  size_t wait(std::span<FsCompletion> out);

  // One request, from submit() to its end; nothing else may be in flight
  // (kFailedPrecondition, in the status).
  FsCompletion run(const FsRequest& request);

  // What run() is mostly used for.  Each has the errors of FsCompletion.

  // Follows `path` from the root, name by name; empty parts do not count.
  // Symbolic links are not followed.  The node is the caller's to forget(),
  // unless it is the root; those on the way are forgotten here.
  absl::StatusOr<FsNode> lookup(absl::string_view path);
  absl::StatusOr<FsAttributes> get_attributes(uint64_t node);
  // The handle, for read() and release().
  absl::StatusOr<uint64_t> open(uint64_t node);
  // The bytes read into `data`; fewer than it has: the end of the file.
  absl::StatusOr<uint32_t> read(uint64_t node, uint64_t handle, uint64_t offset,
                                const DmaSpan& data);
  absl::Status release(uint64_t node, uint64_t handle);
  absl::Status forget(uint64_t node, uint64_t lookups = 1);

  // OK, or why nothing can be submitted any more.  outcome_unknown(): the
  // device was reset; nodes and handles of the session are gone, a new client
  // works.
  const absl::Status& status() const;

 private:
  struct Impl;
  explicit FsClient(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // VHOSTDEV_FS_CLIENT_H_
