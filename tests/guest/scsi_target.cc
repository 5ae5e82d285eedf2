// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/scsi_target.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {
namespace {

constexpr char kConfig[] = "/sys/kernel/config";

absl::Status make_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) {
    return absl::OkStatus();
  }
  return errno_status(errno, path);
}

absl::Status set(const std::string& path, const std::string& value) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  const auto size = static_cast<ssize_t>(value.size());
  if (file.valid() && ::write(file.get(), value.data(), value.size()) == size) {
    return absl::OkStatus();
  }
  return errno_status(errno, path);
}

absl::Status mount_config() {
  if (::mount("configfs", kConfig, "configfs", 0, nullptr) == 0 ||
      errno == EBUSY) {
    return absl::OkStatus();
  }
  return errno_status(errno, kConfig);
}

std::string disk_path(const std::string& wwpn) {
  return absl::StrCat(kConfig, "/target/core/fileio_0/", wwpn);
}

}  // namespace

absl::Status make_scsi_target(const std::string& wwpn, const std::string& file,
                              uint64_t size) {
  VHOST_RETURN_IF_ERROR(mount_config());
  const std::string target = absl::StrCat(kConfig, "/target");
  const std::string disk = disk_path(wwpn);
  VHOST_RETURN_IF_ERROR(make_folder(absl::StrCat(target, "/core/fileio_0")));
  VHOST_RETURN_IF_ERROR(make_folder(disk));
  VHOST_RETURN_IF_ERROR(
      set(absl::StrCat(disk, "/control"),
          absl::StrCat("fd_dev_name=", file, ",fd_dev_size=", size)));
  VHOST_RETURN_IF_ERROR(set(absl::StrCat(disk, "/enable"), "1"));

  const std::string fabric = absl::StrCat(target, "/vhost");
  const std::string group = absl::StrCat(fabric, "/", wwpn, "/tpgt_1");
  VHOST_RETURN_IF_ERROR(make_folder(fabric));
  VHOST_RETURN_IF_ERROR(make_folder(absl::StrCat(fabric, "/", wwpn)));
  VHOST_RETURN_IF_ERROR(make_folder(group));
  VHOST_RETURN_IF_ERROR(set(absl::StrCat(group, "/nexus"), wwpn));
  return add_scsi_lun(wwpn, 0);
}

absl::Status add_scsi_lun(const std::string& wwpn, uint16_t lun) {
  const std::string folder =
      absl::StrCat(kConfig, "/target/vhost/", wwpn, "/tpgt_1/lun/lun_", lun);
  VHOST_RETURN_IF_ERROR(make_folder(folder));
  const std::string link = absl::StrCat(folder, "/disk");
  if (::symlink(disk_path(wwpn).c_str(), link.c_str()) == 0) {
    return absl::OkStatus();
  }
  return errno_status(errno, link);
}

}  // namespace vhost::testing
