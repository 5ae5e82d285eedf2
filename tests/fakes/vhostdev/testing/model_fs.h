// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_FS_H_
#define VHOSTDEV_TESTING_MODEL_FS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_device.h"

namespace vhost::testing {

struct ModelFsOptions {
  // What the configuration space calls it, at most 36 bytes.  Empty: there is
  // no configuration space, as with most file system back-ends; the front-end
  // owns it.
  std::string tag;
  uint32_t request_queues = 1;  // As the configuration space tells it.

  // As FUSE_INIT is answered.
  uint32_t minor = 36;
  uint16_t max_pages = 256;      // Where FUSE_MAX_PAGES is asked for.
  uint32_t max_write = 1 << 20;  // Bytes.
};

// A file system in memory that can only be read: queue 0 is for requests that
// must not wait (FORGET), the others for all else.  Strict: a request on the
// wrong queue, or one that cannot be answered, breaks the ring.
//
// The tree is built before the first request.  The other methods may be called
// from any thread.
// Source: VIRTIO 1.3, "File System Device"; <linux/fuse.h>.
class ModelFs final : public ModelDevice {
 public:
  // Open files at most, as a process has it.
  static constexpr size_t kMaxOpen = 1024;

  explicit ModelFs(ModelFsOptions options = {});

  // Adds a file, or only a folder, and the folders it lies in.
  // Errors: kInvalidArgument  no such name is possible, or a file is in the
  //                           way.
  absl::Status add_file(absl::string_view path, std::string contents);
  absl::Status add_folder(absl::string_view path);

  // Lookups that were not forgotten, and files that were not released.
  uint64_t lookups() const;
  size_t open_files() const;
  // Whether FUSE_INIT came since the last reset.
  bool initialized() const;

  uint32_t device_id() const override { return kDeviceIdFs; }
  FeatureSet features() const override { return {}; }
  void accept_features(FeatureSet) override {}
  std::vector<std::byte> config() const override;
  absl::Status write_config(uint32_t offset, std::span<const std::byte> bytes,
                            bool migration) override;
  absl::StatusOr<uint32_t> handle(const ModelRequest& request) override;
  void reset() override;

 private:
  struct Node {
    bool folder = false;
    std::string contents;
    std::map<std::string, uint64_t, std::less<>> children;  // Node ids.
    uint64_t lookups = 0;
  };
  // A request as it was copied out of the guest's memory.
  struct Call;

  absl::StatusOr<uint64_t> add_node(absl::string_view path, bool folder);
  Node* find(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void run(const Call& call, std::vector<std::byte>& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Each returns 0 or an errno.
  int dispatch(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int init(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int lookup(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int get_attributes(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int open(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int read(const Call& call, std::vector<std::byte>& body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int release(const Call& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void forget(uint64_t id, uint64_t count)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status handle_urgent(const Call& call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const ModelFsOptions options_;
  mutable absl::Mutex mutex_;
  std::vector<Node> nodes_ ABSL_GUARDED_BY(mutex_);  // Node id N is at N - 1.
  std::map<uint64_t, uint64_t> open_ ABSL_GUARDED_BY(mutex_);  // Handle: node.
  uint64_t next_handle_ ABSL_GUARDED_BY(mutex_) = 1;
  bool initialized_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_FS_H_
