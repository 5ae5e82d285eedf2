// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_PEERS_TEST_FS_H_
#define TESTS_PEERS_TEST_FS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/peers/fs_server.h"
#include "tests/peers/process.h"
#include "tests/peers/test_disk.h"
#include "vhostdev/fs_client.h"

namespace vhost::testing {

inline constexpr uint32_t kFsDepth = 16;

// A folder with something of everything in it, in `dir`.
class TestTree {
 public:
  explicit TestTree(const TempDir& dir);

  // Folders, by the path from the root; the root is "".
  static constexpr const char* kFolders[] = {"", "a", "a/b", "empty"};
  static constexpr const char* kFiles[] = {"hello", "none", "a/large",
                                           "a/b/ein Name mit \xc3\xb6"};
  static constexpr const char* kLarge = "a/large";

  const std::string& path() const { return path_; }
  std::string path_of(const std::string& name) const {
    return path_ + "/" + name;
  }
  static std::string contents_of(const std::string& name);

 private:
  std::string path_;
};

// A VM with one file system device, driven by blocking calls.
class TestFs {
 public:
  static absl::StatusOr<std::unique_ptr<TestFs>> create();

  TestVm& vm() { return vm_; }
  FsClient& client() { return *client_; }
  VirtioDriver& driver() { return *driver_; }

  // A driver for the server behind `socket`; nothing is connected yet.
  void attach(const std::string& socket);
  // Connects to the server behind `socket`, starts and makes a client, which
  // waits for `patience`.
  absl::Status connect(const std::string& socket,
                       Duration patience = kPatience);
  void disconnect();

  // Without a new connection.
  absl::Status stop();
  absl::Status start(Duration patience = kPatience);

  // All of a file, in reads of at most `piece` bytes.
  absl::StatusOr<std::string> read_file(const std::string& path,
                                        uint64_t piece);

 private:
  explicit TestFs(std::unique_ptr<EpollEventLoop> loop)
      : loop_(std::move(loop)), vm_(*loop_) {}

  // ORDER: of destruction; each uses those before it.
  std::unique_ptr<EpollEventLoop> loop_;
  TestVm vm_;
  std::unique_ptr<VirtioDriver> driver_;
  std::unique_ptr<FsClient> client_;
};

}  // namespace vhost::testing

#endif  // TESTS_PEERS_TEST_FS_H_
