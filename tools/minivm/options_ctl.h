// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_OPTIONS_CTL_H_
#define TOOLS_MINIVM_OPTIONS_CTL_H_

#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tools/minivm/options.h"

// What the parts of parse_command_line share.
namespace vhost::minivm::options {

template <typename... Parts>
absl::Status wrong(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

template <typename Field, typename T>
absl::Status store(Field& field, const absl::StatusOr<T>& value) {
  if (value.ok()) field = static_cast<Field>(*value);
  return value.status();
}

inline absl::Status store_path(std::string& field, absl::string_view path) {
  if (path.empty()) return wrong("the path is empty");
  field = std::string(path);
  return absl::OkStatus();
}

// What follows "ctl".
bool wants_help(std::span<char* const> args);
absl::StatusOr<CtlOptions> parse_ctl(std::span<char* const> args);

}  // namespace vhost::minivm::options

#endif  // TOOLS_MINIVM_OPTIONS_CTL_H_
