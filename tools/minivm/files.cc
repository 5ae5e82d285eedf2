// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/files.h"

#include "absl/strings/str_cat.h"
#include "tools/vhostctl/output.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

absl::Status write_file(const std::string& path,
                        std::span<const std::byte> bytes) {
  const absl::StatusOr<UniqueFd> file = ctl::open_output(path);
  if (!file.ok()) return file.status();
  return annotate(ctl::write_full(FdRef(*file), bytes), path);
}

absl::StatusOr<std::vector<std::byte>> read_file(const std::string& path,
                                                 size_t most) {
  const absl::StatusOr<UniqueFd> file = ctl::open_input(path);
  if (!file.ok()) return file.status();
  std::vector<std::byte> out(most + 1);
  const absl::StatusOr<size_t> size = ctl::read_full(FdRef(*file), out);
  if (!size.ok()) return annotate(size.status(), path);
  if (*size > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": longer than ", most, " bytes"));
  }
  out.resize(*size);
  return out;
}

}  // namespace vhost::minivm
