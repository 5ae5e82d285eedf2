// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_USER_TEMPORARY_FOLDER_H_
#define TESTS_USER_TEMPORARY_FOLDER_H_

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace vhost::user {

// A folder of a test's own, gone with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/vhostdev-XXXXXX";
    path_ = ::mkdtemp(name) != nullptr ? name : "";
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace vhost::user

#endif  // TESTS_USER_TEMPORARY_FOLDER_H_
